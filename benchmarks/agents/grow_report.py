"""Tables and curves of `grow.py`."""

import json
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper_agents.statistics import bootstrap, crossed_interval, iqm

RETURN = "charts/episodic_return"
SURE = "most_probable.json"
"""Of a run's folder: how it played its most probable actions."""
COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#c53030")
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def evaluation(path: Path) -> dict[str, Any]:
    """Agent -> what a file says of it."""
    return {each["agent"]: each for each in json.loads(path.read_text())["agents"]}


def runs(out: Path) -> dict[str, dict[int, Path]]:
    """Arm -> seed -> the run's folder, for all that are done."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(out.glob("*/*/*/evaluation.json")):
        if path.parent.parent.name != "null" and (path.parents[1] / SURE).is_file():
            found.setdefault(path.parents[2].name, {})[int(path.parents[1].name)] = path.parent
    return found


def returns(played: dict[str, Any]) -> NDArray[np.float64]:
    """Of the episodes, which all agents played in the same order of seeds."""
    seeds = [episode["seed"] for episode in played["episodes"]]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"{played['agent']} played the seeds {seeds}: they must follow each other")
    return np.array([episode["total_reward"] for episode in played["episodes"]])


def trained(folder: Path, arm: str, sure: bool = False) -> dict[str, Any]:
    """What a run's agent did in the end, its actions drawn, or (`sure`) the most probable ones."""
    if sure:
        (found,) = evaluation(folder.parent / SURE).values()
    else:
        found = evaluation(folder / "evaluation.json")[arm.partition("+")[0]]
    return dict(found)


def series(folder: Path, tag: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Environment steps and values of a curve."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars(tag)
    return np.array([e.step for e in events], float), np.array([e.value for e in events])


def report(out: Path, picture: Path | None) -> str:
    """Markdown; the curves as a picture."""
    fixed = evaluation(out / "baselines.json")
    tuned = out / "tuned.json"
    if not tuned.is_file():
        raise ValueError(f"{tuned} is not there: `baselines --plan FILE` plays the tuned schedule")
    fixed["tuned schedule"] = evaluation(tuned)["schedule"]
    done = runs(out)
    if picture:
        draw(done, fixed, out.name, picture)
    return "\n".join([*_agents(done, fixed), "", *_runs(done)])


def _agents(done: dict[str, dict[int, Path]], fixed: dict[str, Any]) -> Iterator[str]:
    best = returns(fixed["tuned schedule"])
    wait = returns(fixed["wait"])
    yield "| agent | runs | return | IQM | 95% of the IQM | less wait | less the tuned schedule | illegal % |"
    yield "| --- " * 8 + "|"
    for name, each in fixed.items():
        own = returns(each)
        yield _line(name, 1, own[None], wait, best, [each])
    for arm, folders in done.items():
        for sure, way in ((False, "drawn"), (True, "most probable")):
            played = [trained(folder, arm, sure) for folder in folders.values()]
            if len(played) < 2:
                raise ValueError(f"arm {arm!r} has {len(played)} finished run: its interval needs at least 2")
            own = np.stack([returns(each) for each in played])
            yield _line(f"{arm}, {way}", len(played), own, wait, best, played)


def interval(values: NDArray[np.float64], statistic: Statistic) -> tuple[float, float]:
    """95%, of (run, episode): over runs and episodes, or over episodes where nothing was trained."""
    return crossed_interval(values, statistic) if len(values) > 1 else bootstrap(values[0], statistic)


def _line(
    name: str, count: int, own: NDArray[np.float64], wait: Any, best: Any, played: list[dict[str, Any]]
) -> str:
    """Of returns (run, episode)."""
    illegal = np.mean([episode["invalid_share"] for each in played for episode in each["episodes"]])
    around = "{:.1f} to {:.1f}".format(*interval(own, iqm))
    cells = [name, str(count), f"{own.mean():.1f}", f"{float(iqm(own.ravel())):.1f}", around]
    return "| " + " | ".join([*cells, _gap(own - wait), _gap(own - best), f"{100 * illegal:.1f}"]) + " |"


def _gap(gaps: NDArray[np.float64]) -> str:
    """(run, episode): mean, with the interval over runs and episodes."""
    low, high = interval(gaps, lambda drawn: drawn.mean(axis=-1))
    return f"{gaps.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def _runs(done: dict[str, dict[int, Path]]) -> Iterator[str]:
    yield "| agent | seed | drawn | most probable | test % | fossils | parameters | explained | seconds |"
    yield "| --- " * 9 + "|"
    for arm, folders in done.items():
        for seed, folder in folders.items():
            drawn, played = trained(folder, arm), trained(folder, arm, sure=True)
            variance = series(folder, "train/explained_variance")[1][:50]
            seconds = json.loads((folder.parent / "seconds.json").read_text())
            spent = f"{seconds['real']:.0f}" + (f" + {seconds['null']:.0f}" if arm.endswith("+null") else "")
            cells = [f"{returns(drawn).mean():.1f}", f"{returns(played).mean():.1f}"]
            cells += [f"{100 * _measured(played, 'test_accuracy'):.1f}", f"{_mean(played, 'fossilized'):.2f}"]
            figures = [*cells, f"{_measured(played, 'param_ratio'):.2f}x", f"{variance[-1]:.2f}", spent]
            yield "| " + " | ".join([arm, str(seed), *figures]) + " |"


def _mean(played: dict[str, Any], key: str) -> float:
    return float(np.mean([episode[key] for episode in played["episodes"]]))


def _measured(played: dict[str, Any], key: str) -> float:
    return float(np.mean([episode["measured"][key] for episode in played["episodes"]]))


def draw(done: dict[str, dict[int, Path]], fixed: dict[str, Any], title: str, picture: Path) -> None:
    """Thin: a seed. Thick: their mean over ten rounds. Dashed: agents that do not learn."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for (arm, folders), color in zip(done.items(), cycle(COLORS), strict=False):
        curves = [series(folder, RETURN) for folder in folders.values()]
        shortest = min(len(steps) for steps, _ in curves)
        smooth = [_smoothed(values[:shortest]) for _, values in curves]
        steps = curves[0][0][:shortest]
        for values in smooth:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.7)
        axes.plot(steps, np.mean(smooth, axis=0), color=color, linewidth=2.2, label=arm)
    heights = {name: float(returns(each).mean()) for name, each in fixed.items()}
    low, high = axes.get_ylim()
    place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    for name, height in apart(heights, (high - low) / 30).items():
        axes.axhline(heights[name], color="0.4", linestyle="--", linewidth=0.9)
        axes.annotate(f" {name}", (1.0, height), annotation_clip=False, **place)
    axes.set(xlabel="environment steps", ylabel="return", title=title)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)


def apart(heights: dict[str, float], least: float) -> dict[str, float]:
    """Heights for labels, from the lowest up, at least so far from one another."""
    found: dict[str, float] = {}
    below = -np.inf
    for name, height in sorted(heights.items(), key=lambda each: each[1]):
        below = found[name] = max(height, below + least)
    return found


def _smoothed(values: NDArray[np.float64], over: int = 10) -> NDArray[np.float64]:
    """Mean of as many rounds up to each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - over)
    return (sums[last] - sums[first]) / (last - first)
