"""The entries that are published: whole, as pledged, and what their agents reach."""

import re
from pathlib import Path

import leaderboard
import pytest
from board import checks, pledge, records, verify
from board.instances import find, refuse_absent
from board.seeds import known

BOARD = Path(verify.__file__).parent
ENTRIES = sorted((BOARD / "entries").glob("*.zip"))
by_name = pytest.mark.parametrize("entry", ENTRIES, ids=lambda path: path.stem)


def test_whoever_was_pledged_has_an_entry_in_every_tier_that_is_published():
    pledged = {path.stem for path in (BOARD / "pledges").glob("*.json")}
    published: dict[str, set[str]] = {}
    for path in ENTRIES:
        tier, _, name = path.stem.partition("_")
        published.setdefault(tier, set()).add(name)
    assert pledged
    assert published.keys() == {"t1", "t2"}
    assert all(pledged < names for names in published.values())


@by_name
def test_every_file_of_a_published_entry_holds(entry):
    table = records.table(records.TABLES)
    with verify.opened(entry, table) as folder:
        good, problems = verify.read(folder, None)
        problems += verify.missing(good, table, partial=False)
        for record in good:
            problems += checks.of_file(record, table, folder, known(table.commitment))
    file = BOARD / "pledges" / f"{good[0].entry}.json"
    problems += pledge.broken(pledge.read(file), good) if file.is_file() else []
    assert not problems


def test_nothing_is_played_again_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        leaderboard.main(["verify", str(BOARD / "entries" / "t2_wait.zip"), "--share", "1"])
    said = capsys.readouterr()
    assert re.search(r"T2-\w+-00 needs data='\w+'.*ESPER_DATA_DIR", said.err)
    assert "ok: " not in said.out


@pytest.mark.slow
@by_name
def test_a_published_entry_is_played_again(entry, capsys):
    """To the last bit on the kind of machine that played it, elsewhere within what rounding explains."""
    with verify.opened(entry, records.table(records.TABLES)) as folder:
        picked = verify.chosen(verify.read(folder, None)[0], 0.01, 0)
    try:
        refuse_absent(find(record.instance) for record in picked)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    code = leaderboard.main(["verify", str(entry), "--share", "0.01", "--draw", "0"])
    assert code == 0, capsys.readouterr()
