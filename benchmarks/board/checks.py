"""What can be said against a result: from its file alone, and after it was played again."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from board.entrants import ORACLE
from board.entries import part_of
from board.instances import environment_version, find
from board.records import Record, RefusedError, Table
from board.report import refuse_foreign
from board.rerun import Rerun, differing
from board.runs import unlike
from board.score import TRAIN
from board.seeds import HOSTS
from esper_agents import checkpoint
from esper_agents.baselines import BASELINES
from esper_env import Head, Op

POINT = 0.01
"""How far mean test quality of all jobs that are played again may be from what was reported, elsewhere."""
LUCK, MOST_LUCK = 0.025, 0.05
"""Deviation of a host's quality between machines, by rounding alone: mean over instances, and the largest
(`benchmarks/rounding.py`)."""
DEVIATIONS, IN_AN_EPOCH = 3, 8
"""How many of them are still chance: in an episode, and in one of its dozens of epochs."""
SAME, LEAST_SAME, MANY = 0.9, 0.7, 6
"""Share of the steps in which an agent has to choose the recorded action, on another machine: in all jobs, or
in so many or more, and in each (`docs/decisions/025-luck-of-the-last-bit.md`)."""
STRAYS = 0.05
"""Share of the episodes, or one, in which a gate may decide otherwise on another machine."""
GATED = (Op.ADVANCE, Op.FOSSILIZE)
"""Ops that such gates allow."""
ROUNDING = 1e-6
"""Relative difference of FLOPs."""
RULED = ("length", "stages", "invalid", "pruned", "fossilized", "rollbacks", "params", "most_params", "rules")
COSTS = ("param_ratio", "flops", "flops_ratio", "epoch_flops")
"""Figures that follow from the rules, on every machine."""


def of_file(record: Record, table: Table, results: Path, secret: str | None) -> list[str]:
    """What a result's own figures, the table, this package and the checkpoint say.

    Args:
        record: The result.
        table: The references.
        results: Folder that the checkpoint's path is relative to.
        secret: What the host seeds follow from, where it is revealed.
    """
    if record.environment_version != environment_version():
        return [
            f"environment version {record.environment_version!r} is not known, only {environment_version()!r}"
        ]
    rows = {(row.instance, row.cell): row for row in table.rows}
    try:
        refuse_foreign(record, table, rows.get((record.instance, record.cell)), secret)
    except RefusedError as error:
        return [str(error).removeprefix(f"{record}: ")]
    if record.instance_hash != find(record.instance).hash:
        return [f"another instance of that name, by its hash {record.instance_hash[:12]}"]
    return [*_agent(record, results), *_limits(record)]


def _agent(record: Record, results: Path) -> Iterator[str]:
    """Whether who is said to have played is there."""
    spec = record.agent
    if spec.checkpoint is None:
        known = {*BASELINES, ORACLE}
        if spec.algo not in known:
            yield f"no checkpoint of {spec.algo!r}: only {sorted(known)} need none"
        elif record.training_seed is not None:
            yield f"training seed {record.training_seed} of {spec.algo!r}, which is not trained"
        return
    path = results / spec.checkpoint.path
    if not path.resolve().is_relative_to(results.resolve()):
        yield f"checkpoint {spec.checkpoint.path} does not lie among the results"
    elif not path.is_file():
        yield f"checkpoint {spec.checkpoint.path} is missing"
    elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != spec.checkpoint.sha256:
        yield (
            f"checkpoint {spec.checkpoint.path} was swapped: its SHA-256 is {found[:12]}, "
            f"{spec.checkpoint.sha256[:12]} is reported"
        )
    else:
        yield from _training(record, path)


def _training(record: Record, path: Path) -> Iterator[str]:
    try:
        trained = checkpoint.read_record(path)["config"]
    except ValueError as error:
        yield f"checkpoint can't be read: {error}"
        return
    for name, reported in (("algo", record.agent.algo), ("seed", record.training_seed)):
        if trained.get(name) != reported:
            yield f"the checkpoint was trained with {name} {trained.get(name)!r}, {reported!r} is reported"


def trained_apart(records: Sequence[Record], results: Path) -> list[str]:
    """Entries whose checkpoints are not runs of one recipe, or not runs of their own."""
    named: dict[tuple[str, str], dict[int | None, Path]] = {}
    for record in records:
        if record.agent.checkpoint is not None:
            name = record.entry, part_of(record.instance)[0]
            named.setdefault(name, {})[record.training_seed] = results / record.agent.checkpoint.path
    return [f"{entry}: {what}" for (entry, _), of in named.items() for what in unlike(of)]


def _limits(record: Record) -> Iterator[str]:
    """Whether every episode could have been played under these budgets."""
    horizon = find(record.instance).horizon
    for episode in record.episodes:
        seed = f"host seed {episode.seed}"
        if episode.param_ratio > record.cell.params:
            yield f"{seed}: {episode.param_ratio:.3f}x parameters, {record.cell.params:g}x is the most"
        elif episode.most_ratio > record.cell.params * (1 + ROUNDING):  # of a quotient
            yield f"{seed}: {episode.most_ratio:.3f}x parameters, {record.cell.params:g}x is the most"
        if episode.length > horizon:
            yield f"{seed}: {episode.length} epochs, {horizon} is the most"
        if episode.length > 1 and episode.epoch_flops[-2] >= record.cell.compute:
            yield f"{seed}: went on after {record.cell.compute:g}x FLOPs were spent"
        if abs(episode.epoch_flops[-1] - episode.flops_ratio) > ROUNDING * episode.flops_ratio:
            yield f"{seed}: FLOPs of its epochs and of the whole do not agree"


def of_rerun(record: Record, again: Rerun) -> tuple[list[str], bool]:
    """What playing again says, and whether that was to the last bit."""
    bits = record.hardware.same_bits(again.hardware)
    astray = [False] * len(record.episodes) if bits else strays(record, again)
    problems = [*(_to_the_bit if bits else _roughly)(record, again), *_counted(record, again, astray)]
    return problems, bits


def _to_the_bit(record: Record, again: Rerun) -> Iterator[str]:
    for episode, now in zip(record.episodes, again.episodes, strict=True):
        was = episode.model_dump()
        fields = differing(was, now)
        if fields:
            shown = [
                f"{name} {was.get(name)!r} was reported, played again it is {now.get(name)!r}"
                for name in fields
                if isinstance(was.get(name), int | float | str | None)
            ]
            yield f"host seed {episode.seed}: the trace leads elsewhere ({', '.join(fields)}); " + "; ".join(
                shown
            )
    if again.other:
        env, step = again.other[0]
        yield (
            f"the agent would have done something else in {len(again.other)} steps, the first of them step "
            f"{step} of host seed {record.episodes[env].seed}"
        )


def _roughly(record: Record, again: Rerun) -> Iterator[str]:
    """On another machine: rules and costs to the letter, quality as near as luck lets it be."""
    for episode, now, astray in zip(record.episodes, again.episodes, strays(record, again), strict=True):
        if astray:
            continue
        fields = [name for name in RULED if getattr(episode, name) != now[name]]
        fields += [name for name in COSTS if not _alike(getattr(episode, name), now[name])]
        if fields:
            yield f"host seed {episode.seed}: the trace leads elsewhere ({', '.join(fields)})"
    for name in ("quality", "val_quality"):
        was = [getattr(episode, name) for episode in record.episodes]
        found = [episode[name] for episode in again.episodes]
        gap = _mean(found) - _mean(was)
        if not abs(gap) <= _chance(MOST_LUCK, len(was)):
            yield f"mean {name} {_mean(was):.4f} was reported, played again it is {gap:+.4f} from that"
    yield from _other_curve(record, again)
    yield from _other_agent([again], LEAST_SAME)


def strays(record: Record, again: Rerun) -> list[bool]:
    """Of every episode, whether a gate let a module go on in one place alone, by what was measured there."""
    found = []
    for episode, now in zip(record.episodes, again.episodes, strict=True):
        both = zip(episode.actions, episode.stages, now["stages"], strict=False)
        op = next((action[Head.OP] for action, was, here in both if was != here), None)
        found.append(op in GATED)
    return found


def _other_curve(record: Record, again: Rerun) -> Iterator[str]:
    """Whether validation quality, by which targets are reached, went another way: epoch by epoch.

    What was not a number counts as guessing, 0; other lengths are found by the rules.
    """
    gaps: dict[int, list[float]] = {}
    for episode, now in zip(record.episodes, again.episodes, strict=True):
        for epoch, (was, here) in enumerate(zip(episode.val_quality, now["val_quality"], strict=False), 1):
            gaps.setdefault(epoch, []).append((here or 0.0) - (was or 0.0))
    means = {epoch: float(np.mean(each)) for epoch, each in gaps.items()}
    most = {epoch: _chance(MOST_LUCK, len(each), IN_AN_EPOCH) for epoch, each in gaps.items()}
    far = [epoch for epoch, mean in means.items() if abs(mean) > most[epoch]]
    if far:
        gap, more = means[far[0]], f"too far in {len(far)} epochs"
        yield f"mean val_quality after epoch {far[0]} is {gap:+.4f} from what was reported, {more}"


def together(jobs: Sequence[tuple[Record, Rerun]], table: Table, all_of_it: bool) -> Iterator[str]:
    """What jobs of one entry in one tier, played again on another machine, say together.

    Luck is a host's: jobs on the same hosts, such as other training seeds' of the same plan, share it. What
    scores are made of is asked apart, so that nothing refused can make up for it.

    Args:
        jobs: Results, and what came of playing them again.
        table: Which pairs of instance and budgets were admitted.
        all_of_it: Whether these are all jobs of the entry.
    """
    scored = {(row.instance, row.cell) for row in table.rows if row.admitted}
    of_score = [each for each in jobs if (each[0].instance, each[0].cell) in scored]
    for some, what in ((jobs, "jobs"), (of_score, "jobs that scores are made of")):
        hosts = {(record.instance, episode.seed) for record, _ in some for episode in record.episodes}
        mean = float(np.mean([again.gap(record) for record, again in some])) if some else 0.0
        most = max(POINT, _chance(LUCK, max(len(hosts), 1)))
        if not abs(mean) <= most:
            of = f"quality of {len(some)} {what} played again is {mean:+.4f} from what was reported"
            yield f"{of}: at most {most:.4f} is chance"
    astray = [each for record, again in jobs for each in strays(record, again)]
    if sum(astray) > max(1, STRAYS * len(astray)):
        yield f"the trace leads elsewhere in {sum(astray)} of {len(astray)} episodes, by a gate"
    if all_of_it or len(jobs) >= MANY:
        yield from _other_agent([again for _, again in jobs], SAME)


def _other_agent(reruns: Sequence[Rerun], least: float) -> Iterator[str]:
    """Whether the agent does something else than was recorded."""
    same, acted = (np.concatenate([getattr(again, name) for again in reruns]) for name in ("same", "acted"))
    for of, where in ((same, "the steps"), (same[acted], "the steps in which it acted")):
        if of.size and not of.mean() >= least:
            yield f"the agent chooses the recorded action in {of.mean():.1%} of {where}, not in {least:.0%}"


def _chance(deviation: float, hosts: int, deviations: int = DEVIATIONS) -> float:
    """How far a mean over hosts may be from what it was."""
    return deviations * deviation / math.sqrt(hosts)


def _alike(was: float | list[float], now: float | list[float]) -> bool:
    return np.shape(was) == np.shape(now) and bool(np.allclose(was, now, rtol=ROUNDING, atol=0))


def _mean(figures: Sequence[float | Sequence[float | None]]) -> float:
    """Of every episode's figure, or of its figures after every epoch that are numbers."""
    values = [value for each in figures for value in (each if isinstance(each, list) else [each])]
    return float(np.mean([value for value in values if value is not None] or [np.nan]))


def _counted(record: Record, again: Rerun, astray: Sequence[bool]) -> Iterator[str]:
    """On every machine: what was counted anew, of the same networks."""
    counted = zip(record.episodes, again.params, again.most_params, again.flops, astray, strict=True)
    for episode, params, most, flops, other in counted:
        if other:
            continue
        seed = f"host seed {episode.seed}"
        if episode.params != params:
            yield f"{seed}: {episode.params} parameters are reported, counted anew there are {params}"
        if episode.most_params != most:
            yield f"{seed}: {episode.most_params} parameters at most are reported, counted anew {most}"
        if abs(episode.flops - flops) > ROUNDING * flops:
            yield f"{seed}: {episode.flops:.6g} FLOPs are reported, counted anew there are {flops:.6g}"


def absent(records: Sequence[Record], table: Table) -> list[str]:
    """What of the held-out instances of its tiers an entry has not played: jobs, and host seeds."""
    tiers: dict[str, list[Record]] = {}
    for record in records:
        tiers.setdefault(part_of(record.instance)[0], []).append(record)
    return [problem for tier, own in tiers.items() for problem in _absent(tier, own, table)]


def _absent(tier: str, records: Sequence[Record], table: Table) -> Iterator[str]:
    done = {(each.instance, each.cell, each.training_seed): _seeds(each) for each in records}
    runs, counts = {each.training_seed for each in records}, set[int]()
    for row in table.rows:
        of, part = part_of(row.instance)
        if of != tier or part == TRAIN:
            continue
        seeds = {done.get((row.instance, row.cell, run), frozenset()) for run in runs}
        counts |= {len(each) for each in seeds if each}
        if frozenset() in seeds:
            yield f"{row.instance} ({row.cell.id}) was not played by every training run"
        elif len(seeds) > 1:
            yield f"{row.instance} ({row.cell.id}) was played from other host seeds by other runs"
    if counts - {HOSTS}:
        yield f"instances of {tier} were played from {sorted(counts)} host seeds: {HOSTS} are required"


def _seeds(record: Record) -> frozenset[int]:
    return frozenset(episode.seed for episode in record.episodes)
