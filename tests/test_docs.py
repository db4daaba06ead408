"""What the README says runs, as printed, in a clean process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import esper_env

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


def test_the_first_code_of_the_readme_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    accuracies = [float(number) for number in re.findall(r"0\.\d+", done.stdout)]
    assert len(accuracies) == 4


def test_the_code_of_the_page_on_attribution_runs_and_shows_what_it_says() -> None:
    page = (ROOT / "docs" / "attribution.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second, joint = map(
        float, re.findall(r"fair share: \[\s*(\S+)\s+(\S+) .*of (\S+)", done.stdout)[0]
    )
    assert first + second == pytest.approx(joint, abs=0.11), "rounded to one decimal"
    assert joint != 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = [
        link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link
    ]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_every_id_has_its_page() -> None:
    assert {path.stem for path in (ROOT / "docs" / "envs").glob("*.md")} == set(esper_env.IDS)


def test_the_commands_of_the_readme_are_those_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert set(named) <= set(targets)


def test_versions_agree() -> None:
    for name in ("pyproject.toml", "CITATION.cff"):
        found = re.search(r'^version\s*[=:]\s*"?([\d.]+)', (ROOT / name).read_text(), re.MULTILINE)
        assert found is not None
        assert found[1] == esper_env.__version__
