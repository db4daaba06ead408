"""From file and flags to one configuration; flags win. Shared by the scripts, which are run from anywhere."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from pydantic import BaseModel
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from esper_agents import config_file

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]
REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def json_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Values] | None:
    """A dict is written as JSON on the command line."""
    if info.type_origin is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: config_file.parse_object(texts[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def flag_parser() -> argparse.ArgumentParser:
    """For the flags that are looked at before the others, as they decide the others' defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser


def configure(build: Callable[[Values], Config], base: Values, argv: list[str], about: str) -> Config:
    """The configuration of plain values and the flags that change it; SystemExit 2 for a wrong flag."""
    given = {flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in argv if flag.startswith("--")}
    if given & {"rounds", "total_steps"}:
        base = base | {"rounds": None, "total_steps": None}
    default = build(base)
    return tyro.cli(type(default), default=default, args=argv, description=about, registry=REGISTRY)


def fail(error: Exception) -> NoReturn:
    """End with a message and status 2."""
    argparse.ArgumentParser().error(str(error))
