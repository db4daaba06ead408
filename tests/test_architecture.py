"""The layout: no file without a home, and one word for one thing."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for folder in ("esper_env", "esper_agents", "scripts") for path in (ROOT / folder).rglob("*.py")
)
HOMELESS = {"utils.py", "helpers.py", "common.py", "misc.py", "types.py"}
OLD_NAMES = re.compile(
    r"\b(kasmina|leyline|tamiyo|simic|tolaria|nissa|karn|emrakul|narset|esika|urza|tezzeret|oona)\b",
    re.IGNORECASE,
)


def test_no_file_is_a_drawer() -> None:
    assert [path for path in CODE if path.name in HOMELESS or path.parent.name == "common"] == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            assert (node.end_lineno or 0) - first.lineno < 40, node.name


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_old_names_stay_in_the_glossary(path: Path) -> None:
    assert OLD_NAMES.findall(path.read_text()) == []


def test_scripts_only_parse_build_and_call() -> None:
    long = [path.name for path in (ROOT / "scripts").glob("*.py") if path.read_text().count("\n") > 60]
    assert long == []
