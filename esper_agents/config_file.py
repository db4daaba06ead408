"""Settings in files, read strictly: TOML or JSON, nothing twice, nothing that is not a number of JSON."""

import json
import tomllib
from pathlib import Path
from typing import Any

Values = dict[str, Any]


def read(path: Path) -> Values:
    """The settings of a .toml or .json file; a run's record, which holds more, gives the run's settings.

    Raises:
        ValueError: a file that is not there or can't be read as what its name says.
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"config file {path}: a name ending in .toml or .json is required")
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else parse_object(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"config file {path}: {error}") from None
    trained = values.get("config")
    return trained if isinstance(trained, dict) and "fingerprint" in values else values


def parse_object(text: str) -> Values:
    """An object of JSON.

    Raises:
        ValueError: anything else, a key that is given twice, or NaN and Infinity.
    """
    values = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    if not isinstance(values, dict):
        raise ValueError(f'{text!r} is not a JSON object such as {{"key": 1}}')
    return values


def argument(text: str) -> Values | list[Any]:
    """An object of JSON, or the list that is in a file of this name.

    Raises:
        ValueError: neither.
    """
    if text.lstrip().startswith("{"):
        return parse_object(text)
    try:
        values = json.loads(Path(text).read_text(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise ValueError(f"{text!r} is neither a JSON object nor a file of JSON: {error}") from None
    if not isinstance(values, list):
        raise ValueError(f"{text} does not hold a list of JSON such as [{{}}]")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> Values:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{sorted({key for key in keys if keys.count(key) > 1})} given twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")
