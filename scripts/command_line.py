"""From file and flags to one configuration; flags win. Shared by the scripts."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from pydantic import BaseModel

from esper_agents import config_file

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]

Json = tyro.constructors.PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda texts: config_file.argument(texts[0]),
    is_instance=lambda value: isinstance(value, dict | list | tuple),
    str_from_instance=lambda value: [json.dumps(value, default=str)],
)
"""How a dict, or the file of a list of them, is written on the command line."""


def flag_parser() -> argparse.ArgumentParser:
    """For the flags that are looked at before the others, as they decide the others' defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser


def configure(build: Callable[[Values], Config], base: Values, argv: list[str], about: str) -> Config:
    """The configuration of plain values and the flags that change it."""
    given = {flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in argv if flag.startswith("--")}
    if given & {"rounds", "total_steps"}:
        base = base | {"rounds": None, "total_steps": None}
    return build(asdict(tyro.cli(_form(build(base)), args=argv, description=about)))


def _form(config: BaseModel) -> type[Any]:
    """A dataclass with the same fields and defaults that checks nothing: `build` does, with its own words."""
    fields: list[Any] = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        kind = Json if isinstance(value, dict) or name in ("instances", "teachers") else None
        form = _form(value) if isinstance(value, BaseModel) else info.annotation
        notes = [tyro.conf.arg(help=info.description), *([kind] if kind else [])]
        default = form if isinstance(value, BaseModel) else lambda value=value: value
        fields.append((name, Annotated[form, *notes], field(default_factory=default)))
    return make_dataclass(type(config).__name__, fields)


def fail(error: Exception) -> NoReturn:
    """End with a message and status 2."""
    print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    raise SystemExit(2)
