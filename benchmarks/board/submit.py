"""`leaderboard.py submit`: an entry in one file, to be sent in: results, traces, weights, versions, hardware.

The file is a zip of the job folders' `episodes.json` and `job.json`, the checkpoints (weights with their
configuration as JSON, no code), and `manifest.json`: the digest of every file, one chain over all episodes,
versions and machines. The same results give the same bytes.
"""

import argparse
import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from board import checks, records
from board.canonical import content_hash, sealed
from board.entries import entries
from board.jobs import DESCRIPTION
from board.records import TABLES, Record, RefusedError, Table
from board.report import revealed

MANIFEST = "manifest.json"
MOST = 2 * 2**30
"""Bytes that are unpacked at most."""
DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, KeyError, UnicodeError, json.JSONDecodeError, RuntimeError)
"""What reading a damaged file ends in; RuntimeError where it asks for a password or an unknown method."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `submit`."""
    parser = subparsers.add_parser("submit", help=__doc__.partition("\n")[0], description=__doc__)
    parser.add_argument("results", type=Path, help="folder that `run` wrote")
    parser.add_argument("--entry", required=True, help="which entry")
    parser.add_argument("--out", type=Path, help="file (default: ENTRY.zip)")
    parser.add_argument("--references", type=Path, nargs="+", default=TABLES, help="tables of references")
    parser.add_argument("--secret", help="what the host seeds follow from, where it is revealed")
    parser.add_argument("--partial", action="store_true", help="pack it though it has not played everything")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Check what can be checked without playing, and pack; 1 if anything is wrong."""
    table = records.table(args.references)
    paths = {path: records.read(path, Record) for path in records.found([args.results])}
    own = {path: record for path, record in paths.items() if record.entry == args.entry}
    if not own:
        known = sorted({record.entry for record in paths.values()})
        raise RefusedError(f"{args.results} holds nothing of {args.entry!r}, only of {known}")
    counted = {record.sha256 for record in entries(own.values())[args.entry].records}
    own = {path: record for path, record in own.items() if record.sha256 in counted}
    wrong = [] if args.partial else checks.absent(list(own.values()), table)
    for record in own.values():
        found = checks.of_file(record, table, args.results, revealed(args.secret, table))
        wrong += [f"{record}: {problem}" for problem in found]
    wrong += [] if wrong else checks.trained_apart(list(own.values()), args.results)
    for problem in wrong:
        print(f"WRONG: {problem}")
    if wrong:
        return 1
    out = args.out or Path(f"{args.entry}.zip")
    pack(own, args.results, table, out)
    print(f"{out}: {len(own)} results, {out.stat().st_size / 2**20:.1f} MiB")
    return 0


def pack(own: Mapping[Path, Record], results: Path, table: Table, out: Path) -> None:
    """Write the file of an entry."""
    paths = list(own)
    paths += [path.with_name(DESCRIPTION) for path in own if path.with_name(DESCRIPTION).is_file()]
    paths += [results / c.path for c in {record.agent.checkpoint for record in own.values()} if c is not None]
    contents = {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(paths)}
    values = manifest(list(own.values()), contents, table)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {MANIFEST: (json.dumps(values, indent=1) + "\n").encode(), **contents}.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whenever it is packed
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)


def manifest(own: Sequence[Record], contents: Mapping[str, bytes], table: Table) -> dict[str, object]:
    """What is packed, in plain values, with its own digest."""
    chains = sorted([record.instance, record.cell.id, str(record.training_seed), episode.seed, episode.chain]
                    for record in own for episode in record.episodes)  # fmt: skip
    return sealed(
        {
            "version": 1,
            "entry": own[0].entry,
            "environment_version": own[0].environment_version,
            "references": table.sha256,
            "commitment": table.commitment,
            "hardware": sorted({str(record.hardware) for record in own}),
            "training_seeds": sorted({str(record.training_seed) for record in own}),
            "results": len(own),
            "episodes": len(chains),
            "chain": content_hash(chains),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        }
    )


@contextmanager
def unpacked(path: Path, table: Table) -> Iterator[Path]:
    """A folder with what was packed, checked file by file; it is gone afterwards.

    Raises:
        RefusedError: no file that `submit` wrote, or one in which something was changed, added or left out.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(path) as archive:
                values = _unpack(archive, path, folder)
        except DAMAGE as error:
            raise RefusedError(f"{path} can't be read: {type(error).__name__}: {error}") from None
        _refuse_other(values, path, folder, table)
        yield folder


def _refuse_other(values: Mapping[str, object], path: Path, folder: Path, table: Table) -> None:
    """Whether the manifest says what the results do; whatever can't be read is found by who reads it.

    Raises:
        RefusedError: it says something else, or less.
    """
    own, unread = records.readable([folder])
    if unread:
        return
    contents = {
        each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()
    }
    expected = manifest(own, contents, table)
    other = [name for name in {**expected, **values} if values.get(name) != expected.get(name)]
    other = [name for name in other if name not in ("references", "sha256")]  # a table grows
    if other:
        raise RefusedError(f"{path}: {MANIFEST} says something else than the results do: {other}")


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> dict[str, object]:
    if sum(entry.file_size for entry in archive.infolist()) > MOST:
        raise RefusedError(f"{path} holds more than {MOST} bytes")
    values = json.loads(archive.read(MANIFEST))
    if not isinstance(values, dict) or sealed(values) != values or not isinstance(values.get("files"), dict):
        raise RefusedError(f"{path}: {MANIFEST} was changed after it was written")
    names = sorted(archive.namelist())
    if names != sorted([MANIFEST, *values["files"]]):
        raise RefusedError(f"{path} holds other files than its {MANIFEST} says")
    for name, digest in values["files"].items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RefusedError(f"{path}: {name!r} would lie outside its folder")
        content = archive.read(name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise RefusedError(f"{path}: {name} is not what {MANIFEST} says")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return values
