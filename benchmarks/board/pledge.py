"""`leaderboard.py pledge`: the digests of an entry's checkpoints, to be published before the secret is.

Host seeds follow from a secret that nobody knows until entries are pledged. Whoever then reveals it lets
everybody play, and `verify --pledge` refuses checkpoints that were not pledged: nobody can have chosen among
agents by the hosts that these are judged on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from board.canonical import sealed
from board.entrants import NAME, entrants
from board.instances import environment_version
from board.records import Record, RefusedError
from esper_agents import checkpoint

VERSION = 1
"""Form of the file."""


class Pledge(BaseModel):
    """Which checkpoints an entry consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    entry: str = Field(pattern=NAME)
    environment_version: str = Field(default_factory=environment_version)
    deterministic: bool
    checkpoints: dict[str, str]
    """Training seed -> SHA-256 of its checkpoint, without what only more training needs, in hex."""
    sha256: str = ""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `pledge`."""
    parser = subparsers.add_parser("pledge", help=__doc__.partition("\n")[0], description=__doc__)
    parser.add_argument("--agents", nargs="+", required=True, metavar="RUN", help="runs, or folders of them")
    parser.add_argument("--entry", required=True, help="what tables will call them")
    parser.add_argument("--deterministic", action="store_true", help="they will play what is likeliest")
    parser.add_argument("--out", type=Path, help="file (default: ENTRY.pledge.json)")
    parser.add_argument("--results", type=Path, default=Path("runs/board"), help="where `run` will write")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Write the digests."""
    who = entrants(args.agents, args.results, {"deterministic": args.deterministic}, args.entry)
    digests = {str(each.training_seed): each.agent.checkpoint.sha256 for each in who if each.agent.checkpoint}
    if len(digests) < len(who):
        raise ValueError(f"--agents {args.agents}: checkpoints alone are pledged, baselines are known")
    values = Pledge(entry=args.entry, deterministic=args.deterministic, checkpoints=digests).model_dump()
    out = args.out or Path(f"{args.entry}.pledge.json")
    checkpoint.write_json(out, sealed(values))
    print(f"{out}: {len(digests)} checkpoints of {args.entry!r}")
    return 0


def read(path: Path) -> Pledge:
    """A file of `pledge`.

    Raises:
        RefusedError: it is missing, of another form, or was changed.
    """
    try:
        pledge = Pledge.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RefusedError(f"{path} is no pledge: {error}") from None
    if pledge.version != VERSION or sealed(pledge.model_dump()) != pledge.model_dump():
        raise RefusedError(f"{path} is of the form {pledge.version}, or was changed after it was written")
    return pledge


def broken(pledge: Pledge, records: Sequence[Record]) -> list[str]:
    """What of an entry's results was not pledged, or was pledged and is missing."""
    own = [record for record in records if record.entry == pledge.entry]
    if not own:
        return [f"{pledge.entry}: was pledged, and played nothing"]
    found = set()
    for record in own:
        config, file = record.agent.config or {}, record.agent.checkpoint
        if file is None or pledge.checkpoints.get(str(record.training_seed)) != file.sha256:
            found.add(f"{pledge.entry}: training seed {record.training_seed} is not the checkpoint pledged")
        if bool(config.get("deterministic")) != pledge.deterministic:
            found.add(f"{pledge.entry}: deterministic={pledge.deterministic} was pledged")
    played = {str(record.training_seed) for record in own}
    found |= {
        f"{pledge.entry}: training seed {seed} was pledged, and played nothing"
        for seed in pledge.checkpoints.keys() - played
    }
    return sorted(found)
