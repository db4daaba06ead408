"""Write the pages that are made from the code: one for each id, the table of transitions, tables of prices.

`python docs/generate.py` writes them; with `--check` it says which are not what the code says, and exits 1.
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
from pydantic import BaseModel

import esper_env
from esper_env import COOL_DOWN, HEADS_READ, IDS, TRANSITIONS, EsperEnv, EsperVectorEnv, Head
from esper_env.blueprints.catalogue import CATALOGUE
from esper_env.hosts import cnn, gpt
from esper_env.hosts.build import HOSTS
from esper_env.mdp.gates import CHECKS
from esper_env.presets import PRESETS

DOCS = Path(__file__).parent
MADE, END = "<!-- Made by docs/generate.py from esper_env/mdp/prices.py. -->", "<!-- End of what is made. -->"
HEAD_VALUES = {
    Head.STYLE: ", ".join(style.name for style in esper_env.Style),
    Head.TEMPO: "FAST, STANDARD, SLOW (3, 5, 8 epochs)",
    Head.ALPHA_TARGET: "HALF, MOST, FULL (0.5, 0.7, 1.0)",
    Head.ALPHA_SPEED: "INSTANT, FAST, MEDIUM, SLOW (0, 3, 5, 8 epochs)",
    Head.ALPHA_CURVE: ", ".join(curve.name for curve in esper_env.Curve),
    Head.OP: ", ".join(op.name for op in esper_env.Op),
}


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def action_table(env: EsperEnv) -> str:
    """The heads, their values and the ops that read them."""
    rows = []
    for head, size in zip(Head, env.layout.nvec, strict=True):
        values = HEAD_VALUES.get(head, ", ".join(env.facts.blueprints))
        if head == Head.SLOT:
            values = ", ".join(place.name for place in env.facts.places)
        readers = ", ".join(op.name for op, heads in HEADS_READ.items() if head in heads) or "all"
        rows.append((head.name.lower(), size, values, readers))
    return table(("head", "size", "values", "read by"), rows)


def feature_table(env: EsperEnv) -> str:
    """Every feature of the base and of the first slot; the other slots' follow in the same order."""
    rows = []
    for name, feature, part in esper_env.observation_layout(env.facts):
        if not name.startswith("slot") or name.startswith("slot0."):
            where = f"{part.start}" if part.stop - part.start == 1 else f"{part.start}-{part.stop - 1}"
            rows.append((where, f"`{name}`", feature.low, feature.high, f"{feature.scale:.3g}", feature.text))
    return table(("index", "feature", "low", "high", "scale", "what it is"), rows)


def fields(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a configuration with its value, by dotted path."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"`{prefix}{name}`", value


def rules_of(name: str, **arguments: object) -> EsperEnv:
    """An environment that trains nothing."""
    env = gym.make(name, engine="null", disable_env_checker=True, **arguments).unwrapped
    assert isinstance(env, EsperEnv)
    return env


def host_table(name: str, env: EsperEnv) -> str:
    """Every host that can be grown on the data of an id."""
    rows = []
    for host, kind in HOSTS.items():
        if kind.family == HOSTS[env.config.host.name].family:
            try:
                facts = rules_of(name, host=host).facts
            except ValueError:  # too many pools for its images
                continue
            places = ", ".join(place.name for place in facts.places)
            rows.append(
                (host, _recipe(host), f"{facts.host_params:,}", _short(facts.host_flops / 1e6), places)
            )
    return table(("host", "what it is", "parameters", "training MFLOPs a sample", "slots by default"), rows)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _recipe(host: str) -> str:
    if host in cnn.HOSTS:
        image = cnn.HOSTS[host]
        widths, pooled = ", ".join(map(str, image.widths)), ", each pooled" * image.pooled
        return f"{image.kernel}x{image.kernel} convolutions to {widths} channels{pooled}"
    text = gpt.HOSTS[host]
    return f"{text.layers} blocks of {text.width} features and {text.heads} heads, {text.context} tokens"


def module_table(env: EsperEnv) -> str:
    """Every blueprint that fits the host, and how large it is in each slot."""
    facts, family = env.facts, env.facts.places[0].family
    rows = []
    for number, blueprint in enumerate(CATALOGUE):
        if family in blueprint.builders:
            text = (inspect.getdoc(blueprint.builders[family]) or "").splitlines()[0]
            sizes = [f"{size:,}" for size in facts.module_params[:, number]]
            rows.append((blueprint.name, text, *sizes))
    return table(("blueprint", "what it is", *(place.name for place in facts.places)), rows)


def env_page(name: str) -> str:
    """The docs page of an id, from its docstrings, its spaces and its configuration."""
    env = rules_of(name)
    text = inspect.getdoc(EsperEnv) or ""
    text = text.split("\nRaises:")[0]
    arguments = (inspect.getdoc(EsperVectorEnv) or "").split("Args:\n")[1].split("\n\nRaises:")[0]
    listed = "\n".join(
        f"- {line.strip()}" if line[4] != " " else f"  {line.strip()}" for line in arguments.split("\n")
    )
    facts = env.facts
    lines = [
        f"# {name}",
        "<!-- Made by docs/generate.py: edit the docstrings, not this file. -->",
        inspect.getdoc(PRESETS[IDS[name]]) or "",
        f"{facts.host_params:,} parameters in the host, {facts.num_slots} slots, "
        f"an observation of {np.prod(env.observation_space.shape)} numbers "
        f"(version {esper_env.OBSERVATION_VERSION}).",
        text,
        "## All arguments\n" + listed,
        "## Hosts\nAny of them by `host=`.\n\n" + host_table(name, env),
        "## Modules\nParameters in each slot of this host; GATED adds a few. Other blueprints are masked."
        "\n\n" + module_table(env),
        "## Table of actions\n" + action_table(env),
        "## Table of features\nA value is what the last column says, divided by the scale and clipped. "
        "Features of `slot0` repeat for every slot.\n\n" + feature_table(env),
        "## Configuration\nEvery field can be set by `overrides={path: value}`.\n\n"
        + table(("path", "value"), list(fields(PRESETS[IDS[name]]()))),
    ]
    return "\n\n".join(lines) + "\n"


def gate_table() -> str:
    """What each gate asks for."""
    gates = {}
    for mode in ("permissive", "strict"):
        env = rules_of("EsperMicro-v0", gates=mode)
        env.reset(seed=0)
        gates[mode] = env._envs._gates
    rows = []
    for gate, result in gates["strict"].items():
        always = gates["permissive"][gate].checks
        more = [name for name in result.checks if name not in always]
        rows.append((gate.name, *("; ".join(CHECKS[name] for name in names) for names in (always, more))))
    return table(("gate", "what it asks for", '`gates="strict"` asks for, besides'), rows)


def lifecycle_page() -> str:
    """The table of transitions, and what the gates ask for."""
    rows: list[tuple[object, ...]] = []
    for row in TRANSITIONS:
        needs = [f"gate {row.gate.name}"] if row.gate is not None else []
        needs += ["alpha at rest"] * row.needs_rest + [
            "age of at least `lifecycle.min_prune_age`"
        ] * row.needs_age
        target = f"{row.target.name} when the ramp to 0 arrives" if row.on_arrival else row.target.name
        rows.append((row.source.name, row.op.name, target, ", ".join(needs)))
    rows += [
        (source.name, "(clock)", target.name, f"`lifecycle.{source.name.lower()}_epochs`")
        for source, target in COOL_DOWN
    ]
    stages = [(stage.name, stage.text) for stage in esper_env.Stage]
    return (
        "# The life of a module\n\n"
        "<!-- Made by docs/generate.py from esper_env/contracts/lifecycle.py. -->\n\n"
        + table(("stage", "what it is"), stages)
        + "\n\n"
        + table(("from", "op", "to", "needs"), rows)
        + "\n\nA check of what was not measured yet fails. There is no G4.\n\n"
        + gate_table()
        + "\n"
    )


def decisions_page() -> str:
    """All decisions, with their status."""
    rows = []
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        lines = path.read_text().splitlines()
        status = next(line for line in lines if line.startswith("Status: ")).removeprefix("Status: ")
        number, _, title = lines[0].removeprefix("# ").partition(": ")
        rows.append((number, f"[{title}]({path.name})", status.partition(".")[0]))
    return (
        "# Decisions\n\n<!-- Made by docs/generate.py from the files beside this one. -->\n\n"
        'What was chosen, and why. "The rules" and "the plan" in them are the specification that Esper began '
        "with, which is not published; where a decision departs from it, it says what it said.\n\n"
        + table(("number", "decision", "status"), rows)
        + "\n"
    )


def price_tables() -> str:
    """What every price of the reward is in every mode, and the other figures, which are the same in all."""
    config, modes = esper_env.EsperConfig().reward, esper_env.REWARD_MODES
    told = {name: " ".join((f.description or "").split()) for name, f in type(config).model_fields.items()}
    prices = [
        (f"`reward.{name}`", *(mode[name] for mode in modes.values()), told[name]) for name in modes["dense"]
    ]
    others = [
        (f"`reward.{name}`", value, told[name])
        for name, value in config.model_dump().items()
        if name not in ("mode", *modes["dense"])
    ]
    return (
        table(("price", *modes, "what it is"), prices)
        + "\n\nThe same in every mode:\n\n"
        + table(("field", "default", "what it is"), others)
    )


def rewards_page() -> str:
    """The page on rewards with the tables that the code gives."""
    before, rest = (DOCS / "rewards.md").read_text().split(MADE)
    after = rest.split(END)[1]
    return f"{before}{MADE}\n\n{price_tables()}\n\n{END}{after}"


def pages() -> dict[Path, str]:
    """Path -> text of every generated page."""
    made = {DOCS / "envs" / f"{name}.md": env_page(name) for name in IDS}
    return made | {
        DOCS / "lifecycle.md": lifecycle_page(),
        DOCS / "rewards.md": rewards_page(),
        DOCS / "decisions" / "README.md": decisions_page(),
    }


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if check and stale:
        sys.exit(f"not what the code says: {', '.join(str(path) for path in stale)}; run `make docs`")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pages()[path])


if __name__ == "__main__":
    main()
