"""What the README says runs, as printed, in a clean process."""

import re
import subprocess
import sys
from pathlib import Path

import esper_env

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_code_of_the_readme_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    accuracies = [float(number) for number in re.findall(r"0\.\d+", done.stdout)]
    assert len(accuracies) == 4


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


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
