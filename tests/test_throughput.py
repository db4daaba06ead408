"""The throughput benchmark: all peers do the same work, and one that does less is found out."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_env import Stage

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEPS = 2


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def work():
    """A function that describes a small cell."""
    module = import_module("peers.work")
    return lambda workload, **changes: module.Work(
        **{"preset": "micro", "num_envs": 3, "batches": 2} | changes | {"workload": workload}
    )


def ran(kind, work, **options):
    """A peer after a few steps, closed."""
    peer = kind(work, import_module("peers.peer").Options(**options))
    for _ in range(STEPS):
        timing = peer.step()
        assert 0 < timing.train < timing.step
    peer.close()
    return peer


@pytest.fixture
def standard(work):
    contest = import_module("contest")
    return lambda cell: contest.standard(cell)[0]


@pytest.mark.parametrize("workload", ["W0", "W2"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SyncPeer", {"plain": True, "channels_last": True}),
        ("SyncPeer", {"plain": True, "channels_last": False}),
        ("SyncPeer", {}),
        ("VmapPeer", {"channels_last": False}),
        ("GroupedPeer", {"channels_last": True}),
        ("GroupedPeer", {"channels_last": False}),
        ("OursPeer", {}),
    ],
)
def test_every_peer_has_the_losses_of_the_reference_engine(work, standard, workload, name, options):
    cell = work(workload)
    kind = getattr(import_module("throughput"), name)
    assert np.stack(ran(kind, cell, **options).losses) == pytest.approx(standard(cell), abs=2e-4)


def test_worker_processes_have_them_too(work, standard):
    cell = work("W1", num_envs=2)
    peer = ran(import_module("throughput").AsyncPeer, cell, plain=True, channels_last=True)
    assert np.stack(peer.losses) == pytest.approx(standard(cell), abs=2e-4)


@pytest.mark.parametrize("name", ["VmapPeer", "GroupedPeer"])
def test_stacked_rows_end_with_the_weights_and_statistics_of_single_networks(work, name):
    throughput, cell = import_module("throughput"), work("W1")
    stacked = ran(getattr(throughput, name), cell, channels_last=True)
    reference = throughput.ReferencePeer(cell, import_module("peers.peer").Options())
    for _ in range(STEPS):
        reference.step()
    for env in range(cell.num_envs):
        host = reference.env._engine.life(env).model.host
        weights = torch.cat([parameter.detach().flatten() for parameter in host.parameters()])
        assert torch.allclose(stacked._host.flat[env], weights, atol=2e-4)
        for tensor_name, statistics in stacked._host.buffers.items():
            if "running" in tensor_name:
                assert torch.allclose(statistics[env], host.get_buffer(tensor_name), rtol=1e-3, atol=1e-4)
    reference.close()


def test_a_peer_that_does_less_work_is_refused(work):
    throughput = import_module("throughput")

    class Lazy(throughput.GroupedPeer):
        """Leaves out the last batch of every epoch."""

        def _plan(self, index):
            plan = super()._plan(index)
            return plan[:, :, : -self._setup.config.batch_size]

    [row] = import_module("contest").measure(work("W0"), [Lazy], [1], 1, np.inf)
    assert "refused, other losses" in row.skipped
    assert not row.timings


def test_modules_do_not_depend_on_how_many_environments_there_are(work):
    slots = import_module("peers.work").slots
    for step in (0, 3):
        few, many = slots(work("W2"), step), slots(work("W2", num_envs=20), step)
        for name in ("stage", "blueprint", "style", "planting", "alpha"):
            assert (getattr(few, name) == getattr(many, name)[:3]).all()


def test_the_mixture_is_even_and_the_first_environment_has_every_stage(work):
    state = import_module("peers.work").slots(work("W1", num_envs=14), 0)
    assert np.unique(state.blueprint, return_counts=True)[1].tolist() == [6] * 7
    assert np.unique(state.stage, return_counts=True)[1].tolist() == [14] * 3
    assert set(state.stage[0]) == {Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED}


def test_every_second_environment_gets_another_module_in_every_step(work):
    slots, cell = import_module("peers.work").slots, work("W2", num_envs=14)
    for step in range(1, 5):
        before, after = slots(cell, step - 1), slots(cell, step)
        env, slot = np.nonzero(after.planting != before.planting)
        assert len(set(env.tolist())) == len(env)
        assert (before.stage[env, slot] == Stage.TRAINING).all()
        assert (after.blueprint[env, slot] != before.blueprint[env, slot]).all()
        assert len(set((env + step) % 2)) == 1
    assert (slots(work("W1"), 4).planting == slots(work("W1"), 0).planting).all()


def test_ratios_are_medians_of_the_ratios_within_rounds():
    report = import_module("throughput_report")

    def row(letter, seconds):
        timings = [{"train": part, "step": 2 * part} for part in seconds]
        return {"letter": letter, "images": 100, "measured_on": 4, "timings": timings}

    base, other = row("a", [1.0, 2.0, 4.0]), row("e", [0.5, 0.5, 0.5])
    assert report.rates(base, "train") == [100, 50, 25]
    assert report.rates(base, "step") == [2, 1, 0.5]
    assert report.ratio(other, base, "train") == "4.00 (2.00-8.00)"
    assert report.ratio(other, None, "train") == ""


def test_a_slope_is_that_of_the_line():
    rise, start = import_module("scaling").slope([1, 2, 4], np.array([3.0, 5.0, 9.0]))
    assert (rise, start) == (pytest.approx(2), pytest.approx(1))


def test_scaling_steps_as_many_live_modules_as_it_says_and_its_parts_are_the_whole():
    scaling = import_module("scaling")
    running = scaling.Running("micro", scaling.Point(num_envs=2, live=2, batches=1), "fused")
    running.step()
    measured = np.isfinite(running.env.attribution()["contribution"])
    assert measured.tolist() == [[True, True, False]] * 2
    assert len(running.rounds[0]) == len(scaling.PARTS)
    assert min(running.rounds[0]) > 0
    running.env.close()


def test_a_mixture_does_the_work_of_the_average_of_uniform_environments(work):
    mixtures = import_module("mixtures")
    running = mixtures.cases(work("W1", num_envs=7, batches=1))
    kinds = {name: each._slots.blueprint for name, each in running.items()}
    mixed, bare = kinds.pop(mixtures.MIXED), kinds.pop(mixtures.BARE)
    assert bare.shape == (7, 0)
    assert not kinds.pop(mixtures.EMPTY).any()
    assert len(kinds) == 7
    for slot in range(3):
        assert sorted(mixed[:, slot]) == sorted(each[0, slot] for each in kinds.values())
    for each in running.values():
        each.epoch()
        each.epoch()
    text = mixtures.table(running)
    assert "against the mixture: " in text
    assert "empty slots against none: " in text


def test_the_command_measures_writes_and_says_what_it_skipped(tmp_path, monkeypatch, capsys):
    throughput = import_module("throughput")
    machine = import_module("machine")
    monkeypatch.setattr(throughput, "peak", lambda device: machine.Peak({"fp32": 1e11, "bf16": 1e12}, 1e10))
    shared = "--env micro --num-envs 1 --workloads W0 --batches 1 --rounds 1 --peers a d --threads 1"
    rows = throughput.main([*shared.split(), "--out", str(tmp_path), "--budget-minutes", "1"])
    record = json.loads((tmp_path / "throughput.json").read_text())
    assert [row.letter for row in rows] == [row["letter"] for row in record["rows"]] == ["a", "d", "r"]
    table = (tmp_path / "throughput.md").read_text()
    assert "(d) grouped (HFTA)" in table
    assert "% of the fp32 product" in table
    throughput.main([*shared.split(), "--out", str(tmp_path), "--budget-minutes", "0"])
    assert capsys.readouterr().out.count("| skipped: no time left |") == len(rows)


def test_language_hosts_are_measured_with_the_losses_of_the_reference_engine(tmp_path, monkeypatch):
    benchmark, machine = import_module("throughput_text"), import_module("machine")
    monkeypatch.setattr(benchmark, "peak", lambda device: machine.Peak({"fp32": 1e11, "bf16": 1e12}, 1e10))
    shared = "--hosts gpt_micro --num-envs 1 2 --rounds 2 --batches 2 --batch-size 4 --context 8 --threads 1"
    rows = benchmark.main([*shared.split(), "--data", "procedural", "--out", str(tmp_path)])
    assert [(row.cell.num_envs, row.peer[:3], len(row.timings)) for row in rows] == [
        (1, "(a)", 2), (1, "(e)", 2), (2, "(a)", 2), (2, "(e)", 2),
    ]  # fmt: skip
    assert all(0 < timing.train < timing.step for row in rows for timing in row.timings)
    assert max(row.deviation[1] for row in rows) < 1e-4
    assert rows[-1].tokens == 2 * 2 * 4 * 8
    assert rows[-1].flops == 16 * import_module("peers.text").setup(rows[-1].cell).facts.host_flops
    table = (tmp_path / "throughput_text.md").read_text()
    assert table.count("| (e) ours |") == 2
    assert len(json.loads((tmp_path / "throughput_text.json").read_text())["rows"]) == 4


def test_a_text_peer_that_does_less_work_is_refused():
    text, benchmark = import_module("peers.text"), import_module("throughput_text")

    class Lazy(text.PlainGpt):
        """Forgets to warm up."""

        def reset(self, **given):
            shown = super().reset(**given)
            self._warmth = type("Never", (), {"step": lambda self: None})()
            return shown

    class LazyPeer(text.SyncTextPeer):
        kind = Lazy

    cell = text.Cell("gpt_micro", 2, batches=8, batch_size=4, context=8, data="procedural")
    with pytest.raises(ValueError, match="refused, other losses"):
        benchmark.measure(cell, [1], 1, [LazyPeer])
