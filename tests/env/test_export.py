"""A harvested network works by itself, gives the environment's logits, and was taken without a trace."""

import re
import subprocess
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from lives import play, rules_only
from plain import TINY, WAIT, grow, started, task_of, tiny, weights
from torch import nn

from esper_env import EsperEnv, EsperVectorEnv, Op, Style, encode
from esper_env.blueprints import catalogue
from esper_env.tasks.loader import evaluation_batches

PAGE = Path(__file__).parents[2] / "docs" / "taking-it-away.md"
LIVES = [
    [(1, Style.LINEAR_ADD), (2, Style.LINEAR_MULTIPLY), (3, Style.SIGMOID_ADD)],
    [(4, Style.GATED), (5, Style.LINEAR_ADD), (6, Style.LINEAR_MULTIPLY)],
    [(7, Style.SIGMOID_ADD), (2, Style.GATED), (7, Style.GATED)],
]
"""(blueprint, style) of the three slots: every style, and every blueprint of convolutional hosts."""
FOSSILIZE = encode(Op.FOSSILIZE, slot=0)


@cache
def fossilized(isolation: str, host: str = "micro") -> EsperVectorEnv:
    """`LIVES`, with all modules committed; nothing but legal actions led there. Shared: don't step it."""
    env = tiny(len(LIVES), horizon=40, isolation=isolation, host=host)
    env.reset(seed=3)
    scripts = [list(zip(*(grow(s, style, b) for s, (b, style) in enumerate(life)))) for life in LIVES]  # noqa: B905
    steps = [np.stack(row) for step in zip(*scripts, strict=True) for row in zip(*step, strict=True)]
    steps += [np.tile(encode(Op.FOSSILIZE, slot=slot), (len(LIVES), 1)) for slot in range(3)]
    for actions in [*steps, np.tile(WAIT, (len(LIVES), 1))]:
        assert env.step(actions)[-1]["action_valid"].all()
    return env


def as_the_environment_sees_it(env: EsperVectorEnv, index: int, images: torch.Tensor) -> torch.Tensor:
    task = task_of(env)
    split = task.validation._replace(images=images, labels=task.validation.labels[: len(images)])
    [(x, _)] = evaluation_batches(task, split)
    with torch.no_grad():
        logits: torch.Tensor = env._engine.life(index).model.eval()(x)
    return logits


@pytest.mark.parametrize(
    ("isolation", "host"), [("training", "micro"), ("always", "micro"), ("training", "impaired")]
)
def test_every_style_and_blueprint_gives_the_environments_logits_to_the_last_bit(
    isolation: str, host: str
) -> None:
    env = fossilized(isolation, host)
    images = task_of(env).test.images
    for index in range(len(LIVES)):
        net = env.export(index)
        assert not net.training
        for size in (1, 7, 128):
            with torch.no_grad():
                logits = net(images[:size])
            assert torch.equal(logits, as_the_environment_sees_it(env, index, images[:size]))
        assert len({tuple(row) for row in logits.tolist()}) > 50


def test_modules_that_are_not_fossils_stay_behind_and_the_figures_are_those_of_the_harvest() -> None:
    env, life = started(seed=5, horizon=12)
    play(env, [*grow(0, Style.GATED), FOSSILIZE, encode(Op.GERMINATE, slot=1, blueprint=7)])
    net = env.export(0)
    assert [graft is not None for graft in life.model.grafts] == [True, True, False]
    env.set_state(0, env.get_state(0))
    assert sum(p.numel() for p in net.parameters()) == 1102 + 152 + 49
    info = env.step(encode(Op.ADVANCE, slot=1)[None])[-1]
    net, task = env.export(0), task_of(env)
    for split, name in ((task.validation, "harvest"), (task.test, "test")):
        with torch.no_grad():
            right = net(split.images).argmax(dim=1) == split.labels
        assert info[f"{name}_accuracy"][0] == pytest.approx(float(right.double().mean()), abs=1e-12)


def test_the_environment_does_not_notice_that_it_was_exported() -> None:
    env, twin = (started(seed=5)[0] for _ in range(2))
    for each in (env, twin):
        play(each, [*grow(0, Style.GATED), FOSSILIZE])
    before = weights(env._engine.life(0).model)
    net = env.export(0).train()
    net(task_of(env).train.images[:64]).sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(weights(env._engine.life(0).model), before, strict=True))
    first, second = env.step(WAIT[None]), twin.step(WAIT[None])
    assert first[0].tobytes() == second[0].tobytes()
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(weights(each._engine.life(0).model) for each in (env, twin)), strict=True)
    )


def test_it_consists_of_torch_alone_and_learns_on() -> None:
    env = fossilized("training")
    net = env.export(1)
    assert {type(module).__module__.split(".")[0] for module in net.modules()} == {"torch"}
    called = {node.target for node in net.graph.nodes if node.op == "call_function"}
    assert all(isinstance(f, types.BuiltinFunctionType) for f in called), called
    task = task_of(env)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(net(task.train.images[:128]), task.train.labels[:128])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_state_dict_brings_the_weights_into_another_export() -> None:
    env = fossilized("training")
    net, other = env.export(0), env.export(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(net.state_dict())
    images = task_of(env).test.images[:16]
    assert torch.equal(net(images), other(images))


READ = """
import sys
sys.modules["esper_env"] = None  # importing it fails
import torch
torch.set_num_threads(1)
images = torch.load({images!r}, weights_only=True)
net = torch.export.load({path!r}).module()
torch.save([net(images[:size]) for size in (1, 7, 128)], {logits!r})
"""


def test_torch_export_takes_it_to_a_process_without_this_package(tmp_path: Path) -> None:
    env = fossilized("training")
    # torch.export.save warns of weights in another layout.
    net = env.export(2).to(memory_format=torch.contiguous_format)
    images = task_of(env).test.images
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (images[:2],), dynamic_shapes={"images": {0: batch}})
    files = {name: str(tmp_path / name) for name in ("images", "logits", "path")}
    files["path"] += ".pt2"
    torch.export.save(program, files["path"])
    torch.save(images, files["images"])
    subprocess.run([sys.executable, "-c", READ.format(**files)], check=True, timeout=120)
    for read in torch.load(files["logits"], weights_only=True):
        with torch.no_grad():
            assert torch.equal(read, net(images[: len(read)]))


class Branching(nn.Conv2d):
    """Its path depends on the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.shape[0] > 1 else x * 0.5


class Counting(nn.Conv2d):
    """A random number that tracing would make a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float(torch.rand(()))


class Residual(nn.Module):
    """Nothing unusual, but not from torch.nn."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-1, 1) + self.inner(x).reshape(x.shape[0], -1).view(x.shape)


def with_blueprint(monkeypatch: pytest.MonkeyPatch, build: Any) -> EsperVectorEnv:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint("foreign", {"cnn": lambda place: build(place.channels)})
    env, _ = started()
    play(env, [*grow(0, Style.LINEAR_ADD, index), FOSSILIZE])
    return env


@pytest.mark.parametrize("build", [lambda c: Branching(c, c, 1), lambda c: Counting(c, c, 1)])
def test_a_blueprint_that_cannot_be_traced_is_refused_by_name(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = with_blueprint(monkeypatch, build)
    with pytest.raises(ValueError, match=r"'foreign'.*can't be exported|can't be exported.*'foreign'"):
        env.export(0)
    env.step(WAIT[None])


@pytest.mark.parametrize("build", [Residual, lambda c: nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d])
def test_a_blueprint_from_outside_is_exported(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = with_blueprint(monkeypatch, build)
    net, images = env.export(0), task_of(env).test.images
    assert {type(module).__module__.split(".")[0] for module in net.modules()} == {"torch"}
    with torch.no_grad():
        assert torch.equal(net(images), as_the_environment_sees_it(env, 0, images))


def test_one_environment_exports_its_only_network() -> None:
    env = EsperEnv("micro", device="cpu", overrides=TINY)
    with pytest.raises(ResetNeeded):
        env.export()
    env.reset(seed=0)
    images = task_of(env._envs).test.images
    with torch.no_grad():
        assert torch.equal(env.export()(images), as_the_environment_sees_it(env._envs, 0, images))


def test_without_a_network_there_is_nothing_to_export() -> None:
    env = rules_only()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="engine='null' trains nothing"):
        env.export(0)
    with pytest.raises(ValueError, match=re.escape("env=1 is not allowed")):
        env.export(1)


def test_the_example_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(write, {})
    clean = f"import sys\nsys.modules['esper_env'] = None\n{read}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", clean],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d", done.stdout)) >= 1
