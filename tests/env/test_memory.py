"""How much memory the fused engine takes: as counted, and too many environments are refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import TINY, tiny
from torch.profiler import ProfilerActivity, profile

from esper_env.config import override
from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.engine import fused, memory
from esper_env.engine.feed import batch, plan
from esper_env.engine.footprint import SAMPLES, footprint
from esper_env.engine.kernels.choice import choose
from esper_env.engine.networks import Networks
from esper_env.engine.program import Program
from esper_env.engine.setup import Setup, prepare
from esper_env.engine.stacked import Run
from esper_env.engine.variants import Pass, measure
from esper_env.presets import PRESETS

CIFAR = {
    "task.data": "procedural", "task.train_size": 256, "task.val_size": 128, "task.test_size": 8,
    "engine.epoch_size": 64, "engine.batch_size": 32, "engine.counterfactual_size": 128,
}  # fmt: skip
STORIES = {
    "host.name": "gpt_micro", "task.data": "procedural", "task.train_size": 64, "task.val_size": 32,
    "task.test_size": 8, "engine.epoch_size": 32, "engine.batch_size": 16, "engine.counterfactual_size": 32,
}  # fmt: skip
SIZES = {"micro": TINY, "cifar": CIFAR, "stories": STORIES}
LARGEST = {"micro": (5, 7), "cifar": (5, 7), "stories": (2, 11)}
"""Blueprints that take most: bottleneck and conv_heavy, attention and mlp."""


def setup_of(preset: str = "micro", **changes: Any) -> Setup:
    config = override(PRESETS[preset](), SIZES[preset] | {"engine.device": "cpu"} | changes)
    return prepare(config.host, config.task, config.engine, config.horizon)


def of_host(host: str, image_size: int | None, **changes: Any) -> Setup:
    """Of a host that reads images of this size, or text."""
    if image_size is None:
        return setup_of("stories", **{"host.name": host} | changes)
    return setup_of(**{"host.name": host, "task.image_size": image_size} | changes)


def begun(setup: Setup, num_envs: int) -> Networks:
    networks = Networks(num_envs, setup)
    networks.begin(np.arange(num_envs), list(range(num_envs)))
    return networks


def grown(setup: Setup, num_envs: int) -> Networks:
    """Gated modules that take most in every slot, in two groups so that rows have to be moved."""
    networks = begun(setup, num_envs)
    modules, largest = networks.modules, LARGEST["stories" if setup.family == "text" else "micro"]
    modules.blueprint[:] = np.where(np.arange(num_envs) % 2, *largest)[:, None]
    modules.stage[:], modules.alpha[:], modules.planting[:] = Stage.BLENDING, 0.5, 1
    modules.style[:], modules.has_gate[:] = Style.GATED, True
    return networks


def peak(work: Callable[[], Any], path: Path, fewest: int = 100) -> int:
    """Most bytes that were there at once and not before, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    profiled.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    assert len(events) > fewest, "nothing was recorded"
    sizes = [e["args"]["Bytes"] for e in sorted(events, key=lambda e: e["ts"])]
    return int(np.cumsum(sizes).max())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("preset", SIZES)
def test_what_every_environment_holds_is_exactly_what_was_counted(preset, precision):
    setup, num_envs = setup_of(preset, **{"engine.precision": precision}), 5
    networks, counted = begun(setup, num_envs), footprint(setup)

    def held(pool):
        everyone = torch.arange(num_envs)
        pool.keep(everyone)
        parts = [*pool._now.parts(), *pool._memory.parts()]
        return sum(each.untyped_storage().nbytes() for each in parts)

    assert held(networks.kinds.host.pool) == num_envs * counted.host
    kinds = [networks.kinds.module(*at) for at in np.argwhere(setup.facts.fits).tolist()]
    assert len(kinds) == 7 * 3
    assert sum(held(kind.pool) for kind in kinds) == num_envs * counted.modules


GROWING = """
import numpy as np, torch
from test_memory import begun, setup_of
setup, kept, pages = setup_of("cifar"), [], []
for num_envs in (1, 33):
    networks, everyone = begun(setup, num_envs), torch.arange(num_envs)
    for kind in (networks.kinds.host, *(networks.kinds.module(*at) for at in np.argwhere(setup.facts.fits))):
        kind.pool.give(everyone, kind.pool.take(everyone))
        kind.pool.keep(everyone)
    kept.append(networks)
    pages.append(int(open("/proc/self/statm").read().split()[1]))
print(*pages)
"""
"""Pages that a process has with the networks of 1 environment, and with those of 33 more."""


def test_a_process_grows_by_what_was_counted_for_each_environment():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    counted = footprint(setup_of("cifar"))
    grown_by = (after - before) * os.sysconf("SC_PAGE_SIZE") / 33
    assert grown_by == pytest.approx(counted.host + counted.modules, rel=0.1)


def training(setup: Setup, networks: Networks) -> Callable[[], None]:
    """A program of all of them, and its first step."""
    modules, envs = networks.modules, np.arange(len(networks.modules.blueprint))
    kernels = choose("torch", torch.device("cpu"), setup.config.precision)

    def work() -> None:
        planned = plan(setup.loaded_task, envs.tolist(), [0] * len(envs), setup.epoch_size)
        program = Program(networks.kinds, kernels, modules, envs, setup)
        program.load(modules, envs, 0 * envs, np.ones(len(envs)), networks.draws(envs, True))
        program.step(*batch(setup.loaded_task, kernels, planned[:, :, : setup.config.batch_size]))

    return work


def measuring(setup: Setup) -> Callable[[], None]:
    """All variants of three networks with modules in every slot."""
    networks, envs = grown(setup, 3), np.arange(3)
    run = Run(choose("torch", torch.device("cpu"), "float32"), False, networks.draws(envs, False).of)

    def work() -> None:
        every = np.tile(np.arange(8)[::-1], (3, 1))
        measure(Pass(networks.kinds, run, networks.modules, envs, setup), every)

    return work


@pytest.mark.parametrize(
    ("host", "image_size", "precision"),
    [
        ("gpt_micro", None, "float32"),
        ("gpt_micro", None, "float64"),
        ("micro", 16, "float32"),
        ("micro", 16, "bfloat16"),
        ("micro", 16, "float64"),
        ("deep", 32, "float32"),
        ("minimal", 16, "float32"),
        ("baseline", 32, "float32"),
    ],
)
def test_a_training_step_holds_three_quarters_to_eleven_tenths_of_what_was_counted(
    host, image_size, precision, tmp_path
):
    setup = of_host(host, image_size, **{"engine.precision": precision})
    counted = footprint(setup)
    for build, expected in ((begun, counted.host_row), (grown, counted.trained)):
        step = training(setup, build(setup, 3))
        step()
        held = peak(step, tmp_path / "trace.json") / 3
        assert 0.75 * expected < held < 1.1 * expected


@pytest.mark.parametrize(
    ("host", "image_size"), [("micro", 16), ("deep", 32), ("minimal", 16), ("gpt_micro", None)]
)
def test_measuring_all_variants_holds_what_was_counted_to_a_seventh(host, image_size, tmp_path):
    family = "image" if image_size else "text"
    setup = of_host(host, image_size, **{"engine.counterfactual_size": SAMPLES[family]})
    work = measuring(setup)
    work()
    held, expected = peak(work, tmp_path / "trace.json") / 3, footprint(setup).measured
    assert held == pytest.approx(expected, rel=1 / 7)


def test_the_number_that_is_named_is_accepted_and_one_more_refused_before_anything_is_built(monkeypatch):
    setup = setup_of()
    counted, rows = footprint(setup), memory.rows_at_once(setup)
    room = 3 * (counted.host + counted.modules + counted.row) + counted.host
    assert rows > 3
    monkeypatch.setattr(memory, "free", lambda device: room)
    assert tiny(3, engine="fused")._engine.rows_at_once == rows
    monkeypatch.setattr(fused, "Networks", lambda *given: pytest.fail("networks were built"))
    with pytest.raises(ValueError, match=r"num_envs=4 is not allowed") as refused:
        tiny(4, engine="fused")
    message = str(refused.value)
    assert re.findall(r"at most (\d+)", message) == ["3"]
    always, row = (f"{size / 2**20:,.2f} MiB" for size in (counted.host + counted.modules, counted.row))
    assert f"takes {always}" in message
    assert f"{row} more" in message
    assert f"{room / 2**20:,.2f} MiB are free on 'cpu'" in message


@pytest.mark.parametrize("engine", ["null", "reference"])
def test_other_engines_refuse_nothing(engine, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 0)
    assert tiny(2, engine=engine).num_envs == 2


def test_where_the_memory_is_not_known_nothing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "none",))
    monkeypatch.setattr(memory.os, "sysconf", lambda name: exec("raise ValueError"))
    assert memory.installed(torch.device("cpu")) is memory.free(torch.device("cpu")) is None
    memory.refuse_too_many(10**9, setup_of())
    assert memory.rows_at_once(setup_of()) > 1


@given(*[st.integers(0, 500)] * 3, st.integers(1, 20))
def test_the_largest_number_is_the_largest_that_fits(room, always, working, rows):
    always += 1
    fits = [n for n in range(600) if n * always + min(n, rows) * working <= room]
    assert memory.largest(room, always, working, rows) == max(fits)


def test_how_many_are_trained_side_by_side_is_as_asked_or_what_suits_the_device(monkeypatch):
    setup, asked = setup_of("cifar"), setup_of("cifar", **{"engine.rows_at_once": 5})
    counted = footprint(setup)
    monkeypatch.setattr(memory, "free", lambda device: pytest.fail("what is free decides nothing"))
    assert memory.rows_at_once(asked) == 5
    assert memory.rows_at_once(setup) == memory.SIDE_BY_SIDE // counted.host_row > 1
    monkeypatch.setattr(memory, "installed", lambda device: 0)
    monkeypatch.setattr(memory, "SIDE_BY_SIDE", 1)
    assert memory.rows_at_once(setup) == 1
    monkeypatch.setattr(memory, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(memory, "installed", lambda device: 40 * counted.row)
    assert memory.rows_at_once(setup) == 20


def test_recorded_steps_count_on_cuda(monkeypatch):
    setup = setup_of()
    counted, rows = footprint(setup), memory.rows_at_once(setup)
    monkeypatch.setattr(memory, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(memory, "installed", lambda device: 10**12)
    always, recorded = counted.host + counted.modules, setup.config.cuda_graphs * counted.recording
    monkeypatch.setattr(memory, "free", lambda device: 2 * (always + 2 * counted.row + recorded))
    memory.refuse_too_many(2, setup)
    with pytest.raises(ValueError, match="at most 2"):
        memory.refuse_too_many(3, setup)
    assert recorded > 0
    assert rows > 2


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("1048576\n", 2**20), (f"{2**62}\n", None)])
def test_a_container_has_no_more_than_it_is_allowed(text, limit, monkeypatch, tmp_path):
    cpu, physical = torch.device("cpu"), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert memory.installed(cpu) == (limit or physical)
    (tmp_path / "statm").write_text("9999 100 50 1 0 400 0\n")
    monkeypatch.setattr(memory, "OWN_PAGES", tmp_path / "statm")
    assert memory.free(cpu) == (limit or physical) - 100 * os.sysconf("SC_PAGE_SIZE")


def test_a_host_without_slots_is_counted_too():
    setup = setup_of()
    none = np.empty((0, len(setup.blueprints)), dtype=bool)
    facts = replace(
        setup.facts, places=(), fits=none, module_params=none.astype(int), gate_params=np.empty(0)
    )
    bare = footprint(replace(setup, slot_places=(), facts=facts))
    assert (bare.host, bare.modules) == (footprint(setup).host, 0)
    assert bare.row == pytest.approx(bare.host_row, rel=0.05)
