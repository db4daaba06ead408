"""The pages on other libraries: what they print runs, and says what is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "libraries").glob("*.md"))


def test_the_code_of_the_page_on_stable_baselines3_runs():
    [code] = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "libraries" / "stable-baselines3.md").read_text(), re.DOTALL
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "16\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_names_an_example_and_flags_it_has(page):
    commands = re.findall(r"python (scripts/examples/\w+\.py)((?: --\S+ \w+)*)", page.read_text())
    assert commands
    for script, flags in commands:
        fields = re.findall(r"^    (\w+): ", (ROOT / script).read_text(), re.MULTILINE)
        assert {flag.replace("-", "_") for flag in re.findall(r"--(\S+)", flags)} <= set(fields)


def test_every_page_is_in_the_readme_and_every_example_on_a_page():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if f"docs/libraries/{page.name}" not in readme] == []
    text = "".join(page.read_text() for page in PAGES)
    examples = (ROOT / "scripts" / "examples").glob("*.py")
    assert [path.name for path in examples if f"scripts/examples/{path.name}" not in text] == []
