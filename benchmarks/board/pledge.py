"""`leaderboard.py pledge`: the digest of an entry's agents, to be published before the secret is.

Host seeds follow from a secret that nobody knows until entries are pledged. Whoever then reveals it lets
everybody play; `verify --pledge` refuses agents that were not pledged, and `report --pledges` says whose
were: nobody can have chosen among these by the hosts that they are judged on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from board.canonical import content_hash, sealed
from board.entrants import NAME, AgentSpec, entrants
from board.instances import environment_version
from board.records import Record, RefusedError
from board.run import settings
from esper_agents import checkpoint

VERSION = 1
"""Form of the file."""


class Pledge(BaseModel):
    """Which agents an entry consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    entry: str = Field(pattern=NAME)
    environment_version: str = Field(default_factory=environment_version)
    agents: dict[str, str]
    """Training seed ("None" of what is not trained) -> `digest` of the agent."""
    sha256: str = ""


def digest(agent: AgentSpec) -> str:
    """SHA-256, in hex, of all that plays: algorithm, settings and checkpoint, wherever that lies."""
    return content_hash(agent.model_dump(mode="json", exclude={"checkpoint": {"path"}}))


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `pledge`."""
    parser = subparsers.add_parser("pledge", help=__doc__.partition("\n")[0], description=__doc__)
    parser.add_argument("--agents", nargs="+", required=True, metavar="AGENT", help="as `run` takes them")
    parser.add_argument("--entry", required=True, help="what tables will call them")
    parser.add_argument("--config", type=Path, help="as `run` takes it")
    parser.add_argument("--deterministic", action="store_true", help="they will play what is likeliest")
    parser.add_argument("--out", type=Path, help="file (default: ENTRY.pledge.json)")
    parser.add_argument("--results", type=Path, default=Path("runs/board"), help="where `run` will write")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Write the digests."""
    who = entrants(args.agents, args.results, settings(args, None), args.entry)
    if any(each.agent.checkpoint is None and each.agent.config is None for each in who):
        raise ValueError(f"--agents {args.agents}: a baseline without --config is known, and never chosen")
    digests = {str(each.training_seed): digest(each.agent) for each in who}
    values = Pledge(entry=args.entry, agents=digests).model_dump()
    out = args.out or Path(f"{args.entry}.pledge.json")
    checkpoint.write_json(out, sealed(values))
    print(f"{out}: {len(digests)} agents of {args.entry!r}")
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


def several(paths: Sequence[Path]) -> list[Pledge]:
    """Files of `pledge`, one an entry.

    Raises:
        RefusedError: see `read`; or two of one entry.
    """
    found = [read(path) for path in paths]
    names = [each.entry for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RefusedError(f"pledged more than once: {twice}, one pledge of each entry is required")
    return found


def foreign(pledge: Pledge, records: Sequence[Record]) -> list[str]:
    """Entries that were not pledged, and might have been chosen: all but baselines as they come."""
    others = {record.entry for record in records if record.agent.checkpoint or record.agent.config}
    return [f"{name}: was not pledged, {pledge.entry!r} was" for name in sorted(others - {pledge.entry})]


def broken(pledge: Pledge, records: Sequence[Record]) -> list[str]:
    """What of an entry's results was not pledged, or was pledged and is missing."""
    own = [record for record in records if record.entry == pledge.entry]
    if not own:
        return [f"{pledge.entry}: was pledged, and played nothing"]
    if pledge.environment_version != own[0].environment_version:
        now = own[0].environment_version
        return [f"{pledge.entry}: was pledged for {pledge.environment_version!r}, and played {now!r}"]
    played = {str(record.training_seed): digest(record.agent) for record in own}
    found = [
        f"{pledge.entry}: training seed {seed} is not the agent pledged: algorithm, settings and checkpoint"
        for seed, agent in played.items()
        if pledge.agents.get(seed) != agent
    ]
    return found + [
        f"{pledge.entry}: training seed {seed} was pledged, and played nothing"
        for seed in pledge.agents
        if seed not in played
    ]
