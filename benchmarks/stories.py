"""Claim: at equal FLOPs growing beats a static language host of the final size, not the small one.

On real stories and, beside the best possible loss, on procedural ones: EsperTinyStories' own settings but
where said, episodes paired by seed, one thread each, 95% intervals over seeds. Figures and conditions:
`results/stories_*.md`.

`python benchmarks/stories.py static`: validation loss of gpt_small against tokens seen, on real stories.
`... grown`: gpt_small with attention and MLPs grown after its blocks, against a static host of the same final
size and against itself without modules, both trained for as many FLOPs.
`... grammar`: static, grown and optimal loss on procedural stories, whose entropy is known.
`... published`: the nearest that our hosts come to the 260K-parameter model of A. Karpathy's llama2.c
(`doc/stories260K.md` there: validation loss 1.2968 after 6.6 billion tokens of the whole of TinyStories).

Each prints Markdown, keeps every episode as JSON under --out, plays only what is not there yet, and draws
curves. All is played in the environment, by agents that wait or follow a schedule; the losses that count are
those of the harvested network.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import stories_report as report
from machine import describe
from stories_play import Job, Size, optimum, played

from esper_env.hosts import gpt

LLAMA = Size(layers=5, width=64, heads=8, context=512)
"""stories260K has these, 4 heads of keys and values, rotary positions, SwiGLU of 172 and RMS norms."""
LLAMA_OVERRIDES = {
    "task.vocabulary": 512, "engine.optimizer.host_weight_decay": 0.01, "engine.optimizer.adam_beta2": 0.99,
}  # fmt: skip
"""Of its training, with which batches of 128 windows and 1,000 batches of warm-up went."""
QUICK = {"engine.optimizer.host_lr": 2e-3, "engine.optimizer.module_lr": 8e-3}
"""For procedural stories and few epochs (`docs/data.md`)."""
PUBLISHED = 1.2968
DIFFERENCES = """
Published: {published} on all of TinyStories, 260,032 parameters, 100,000 batches of 128 windows of 512 tokens
(6,554 million). Here: least validation loss {least:.4f}, {params:,.0f} parameters, {seen:.1f} million tokens
from a sample of {held:.2f} million ({passes:.1f} passes), batches of {batch}. Other differences: learned
positions (rotary there), LayerNorm (RMS), GELU MLP of 256 (SwiGLU of 172), 8 heads of keys and values (4), no
dropout (0.05), a byte-level code of our own (SentencePiece), so that a token is another share of a text.
"""


def blocks(host: str) -> int:
    """By how many whole blocks a host of this name is grown: an attention and an MLP each."""
    return gpt.HOSTS[host].layers // 2


def plan(host: str, start: int, spacing: int) -> dict[str, Any]:
    """What is grown: attention and MLP in turn, after the first blocks."""
    names = ["attention", "mlp"] * blocks(host)
    return {"blueprints": names, "slots": list(range(len(names))), "start": start, "spacing": spacing}


def larger(host: str) -> Size:
    """The static host of the grown one's size, to the parameter: so many more blocks."""
    recipe = gpt.HOSTS[host]
    return Size(recipe.layers + blocks(host), recipe.width, recipe.heads, recipe.context)


def slots(host: str) -> dict[str, Any]:
    """Arguments with which there is a slot after each of the first blocks that are grown after."""
    return {"slots": [f"block{block}" for block in range(1, 2 * blocks(host) + 1)]}


def of_equal_cost(job: Job, flops: float) -> Job:
    """The same with as many epochs as spend so many FLOPs, to the nearest whole one."""
    setup = job.setup()
    return replace(job, horizon=max(1, round(flops / (setup.facts.host_flops * setup.epoch_size))))


def grown_and_static(args: argparse.Namespace, data: str) -> list[report.Result]:
    """The three arms on the same seeds; what the grown one costs decides how long the others train."""
    grown = Job(
        "grown", 0, args.epochs, args.host, data,
        plan(args.host, args.start, args.spacing), slots(args.host), args.overrides,
    )  # fmt: skip
    results = played(args.out, [replace(grown, seed=seed) for seed in args.seeds], args.workers)
    flops = max(r["curves"]["flops"][-1] for r in results)
    static = replace(grown, arm=args.host, plan=None, settings={})
    large = replace(static, arm="as large from the start", host=larger(args.host))
    others = [of_equal_cost(job, flops) for job in (static, large)]
    jobs = [replace(job, seed=seed) for job in others for seed in args.seeds]
    return [*results, *played(args.out, jobs, args.workers)]


def static(args: argparse.Namespace) -> list[report.Result]:
    """A host that nobody grows, on real stories."""
    jobs = [Job(args.host, s, args.epochs, args.host, overrides=args.overrides) for s in args.seeds]
    results = played(args.out, jobs, args.workers)
    print(report.curve(results), "\n\n" + report.summary(results))
    report.draw(results, args.picture)
    return results


def grown(args: argparse.Namespace) -> list[report.Result]:
    """Grown against static at equal cost, on real stories."""
    results = grown_and_static(args, "tinystories")
    _compare(results, args)
    return results


def grammar(args: argparse.Namespace) -> list[report.Result]:
    """The same on procedural stories, beside the best that is possible."""
    results = grown_and_static(args, "procedural")
    best = optimum(Job("optimum", 0, 1, args.host, "procedural", overrides=args.overrides))
    _compare(results, args, (best["validation"], "optimum"))
    print(f"- the best possible reader: validation {best['validation']:.3f}, test {best['test']:.3f}")
    for name, of in report.arms(results).items():
        gap = report.with_interval([r["test_loss"] - best["test"] for r in of])
        print(f"- {name}, test loss above the optimum: {gap} nats")
    return results


def published(args: argparse.Namespace) -> list[report.Result]:
    """The nearest host to a published one, and what differs."""
    jobs = [
        Job("5 layers of 64", s, args.epochs, LLAMA, overrides=LLAMA_OVERRIDES | args.overrides)
        for s in args.seeds
    ]
    results = played(args.out, jobs, args.workers)
    print(report.curve(results), "\n\n" + report.summary(results))
    first = results[0]
    seen = len(first["curves"]["val_loss"]) * first["tokens_an_epoch"] / 1e6
    held = first["windows"]["train"] * first["windows"]["context"] / 1e6
    figures = {"params": first["params"], "batch": first["batch_size"], "seen": seen, "held": held}
    least = min(min(r["curves"]["val_loss"]) for r in results)
    print(DIFFERENCES.format(published=PUBLISHED, least=least, passes=seen / held, **figures))
    report.draw(results, args.picture, (PUBLISHED, "published, whole data set"))
    return results


def _compare(
    results: list[report.Result], args: argparse.Namespace, level: tuple[float, str] | None = None
) -> None:
    print(report.summary(results), "\n\n" + report.each(results), "\n\n" + report.paired(results, "grown"))
    report.draw(results, args.picture, level)


STUDIES: dict[str, tuple[Callable[[argparse.Namespace], list[report.Result]], dict[str, Any]]] = {
    "static": (static, {"host": "gpt_small", "epochs": 150}),
    "grown": (grown, {"host": "gpt_small", "epochs": 150}),
    "grammar": (grammar, {"host": "gpt_micro", "epochs": 60, "start": 0, "spacing": 0, "overrides": QUICK}),
    "published": (published, {"epochs": 150}),
}
"""Name -> study and its own defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, play, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    studies = parser.add_subparsers(dest="study", required=True)
    for name, (study, defaults) in STUDIES.items():
        options = studies.add_parser(name, help=study.__doc__)
        options.add_argument("--out", type=Path, default=Path("runs/stories"), help="folder of the episodes")
        options.add_argument("--picture", type=Path, default=Path(f"runs/stories/{name}.png"))
        options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        options.add_argument(
            "--epochs", type=int, default=defaults["epochs"], help="of the grown or only arm"
        )
        if "host" in defaults:
            options.add_argument("--host", choices=sorted(gpt.HOSTS), default=defaults["host"])
        if study in (grown, grammar):
            options.add_argument(
                "--start", type=int, default=defaults.get("start", 10), help="of the first planting"
            )
            options.add_argument(
                "--spacing", type=int, default=defaults.get("spacing", 5), help="of plantings"
            )
        options.add_argument("--workers", type=int, default=1, help="episodes at a time, a thread each")
        options.add_argument(
            "--overrides", type=json.loads, default=defaults.get("overrides", {}), help="JSON"
        )
    args = parser.parse_args(arguments)
    study, _ = STUDIES[args.study]
    results = study(args)
    print(f"\nData: {results[0]['data']}\nMachine: {describe('cpu')}")


if __name__ == "__main__":
    main()
