"""The entries that are published: whole, as pledged, and what their agents reach."""

from pathlib import Path

import leaderboard
import pytest
from board import checks, pledge, records, verify
from board.seeds import known

BOARD = Path(verify.__file__).parent
ENTRIES = sorted((BOARD / "entries").glob("*.zip"))
by_name = pytest.mark.parametrize("entry", ENTRIES, ids=lambda path: path.stem)


def test_whoever_was_pledged_has_an_entry():
    pledged = {path.stem for path in (BOARD / "pledges").glob("*.json")}
    assert pledged
    assert pledged < {path.stem.removeprefix("t1_") for path in ENTRIES}


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


@pytest.mark.slow
@by_name
def test_a_published_entry_is_played_again(entry, capsys):
    """To the last bit on the kind of machine that played it, elsewhere within what rounding explains."""
    code = leaderboard.main(["verify", str(entry), "--share", "0.01", "--draw", "0"])
    assert code == 0, capsys.readouterr()
