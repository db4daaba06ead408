"""The ids work with Gymnasium's own machinery: make, make_vec, specs, vectorizers, checker and wrappers."""

import json
import os
import subprocess
import sys
import types
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeObservation,
    RecordEpisodeStatistics,
    RecordVideo,
)

import esper_env
from esper_env import EsperEnv, EsperVectorEnv
from esper_env.queries import QueriedVectorEnv

IDS = ["EsperCifar-v0", "EsperMicro-v0"]
NULL = {"engine": "null", "horizon": 3}
SMALL = {
    "horizon": 3,
    "epoch_size": 64,
    "batch_size": 64,
    "data": "procedural",
    "device": "cpu",
    "overrides": {
        "task.image_size": 16,
        "task.train_size": 128,
        "task.val_size": 64,
        "task.test_size": 64,
        "engine.counterfactual_size": 64,
    },
}


def wait(num_envs: int) -> np.ndarray:
    return np.zeros((num_envs, 8), dtype=np.int64)


@pytest.mark.parametrize("name", IDS)
def test_make_and_make_vec_build_our_classes(name):
    env, envs = gym.make(name, **NULL), gym.make_vec(name, num_envs=2, **NULL)
    assert isinstance(env.unwrapped, EsperEnv)
    assert isinstance(envs, EsperVectorEnv)
    assert envs.num_envs == 2
    assert env.spec.max_episode_steps is None
    assert envs.single_observation_space == env.observation_space
    assert envs.single_action_space == env.action_space


def test_an_id_with_its_module_needs_no_import():
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('esper_env:EsperMicro-v0', engine='null')\n"
        "envs = gym.make_vec('esper_env:EsperMicro-v0', num_envs=2, engine='null')\n"
        "assert env.reset(seed=0)[0].shape == envs.reset(seed=0)[0].shape[1:]\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_a_vector_environment_is_rebuilt_from_its_spec_and_from_json():
    envs = gym.make_vec("EsperMicro-v0", num_envs=3, slots=2, autoreset_mode="SameStep", **NULL)
    spec = envs.unwrapped.spec
    from_json = EnvSpec.from_json(json.dumps(json.loads(spec.to_json())))
    for again in (gym.make_vec(spec), gym.make_vec(from_json)):
        assert (again.num_envs, again.autoreset_mode) == (3, AutoresetMode.SAME_STEP)
        assert again.config == envs.config


def test_a_single_environment_is_rebuilt_from_its_spec():
    env = gym.make("EsperMicro-v0", slots=2, **NULL)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config == env.unwrapped.config


@pytest.mark.parametrize("arguments", [NULL, SMALL], ids=["rules alone", "training"])
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_has_nothing_to_say(name, arguments):
    check_env(gym.make(name, **arguments).unwrapped)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_sync_vectorizer_plays_what_the_native_one_plays(mode):
    native = gym.make_vec("EsperMicro-v0", num_envs=2, autoreset_mode=mode, **NULL)
    sync = gym.make_vec(
        "EsperMicro-v0",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **NULL,
    )
    np.testing.assert_array_equal(native.reset(seed=7)[0], sync.reset(seed=7)[0])
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = native.sample_valid(rng)
        ours, theirs = native.step(actions), sync.step(actions)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(ours[4]["action_mask"], theirs[4]["action_mask"])


# Python 3.12 and later warn about any fork of a process with threads, which is what is tested here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*ERROR.*:UserWarning")  # so that what a worker raised is raised
def test_the_async_vectorizer_works_in_a_process_that_has_trained_with_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.nn.Conv2d(3, 32, 3)(torch.randn(64, 3, 32, 32)).sum().backward()
        envs = gym.make_vec(
            "EsperMicro-v0",
            num_envs=2,
            vectorization_mode="async",
            vector_kwargs={"context": "fork"},
            **SMALL,
        )
    finally:
        torch.set_num_threads(threads)
    native = gym.make_vec("EsperMicro-v0", num_envs=2, **SMALL)
    np.testing.assert_array_equal(envs.reset(seed=0)[0], native.reset(seed=0)[0])
    plant = np.stack([esper_env.encode(esper_env.Op.GERMINATE, slot=1, blueprint=1)] * 2)
    for one, other in zip(envs.step(plant)[:4], native.step(plant)[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    envs.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_computes_with_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        child = os.fork()
        if child == 0:
            os._exit(torch.get_num_threads())
    finally:
        torch.set_num_threads(threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*ERROR.*:UserWarning")  # Gymnasium's log of what the worker raised
def test_workers_forked_after_cuda_was_used_are_refused_with_the_way_out(monkeypatch):
    parent = os.getpid()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.getpid() != parent)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: os.getpid() != parent)
    envs = gym.make_vec(
        "EsperMicro-v0", num_envs=2, vectorization_mode="async", vector_kwargs={"context": "fork"}
    )
    with pytest.raises(RuntimeError, match=r"vector_kwargs=\{'context': 'spawn'\}"):
        envs.reset(seed=0)
    envs.close(terminate=True)


def native(**arguments) -> EsperVectorEnv:
    return gym.make_vec("EsperMicro-v0", num_envs=2, **NULL, **arguments)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_episode_statistics_are_recorded(mode):
    bare, envs = native(autoreset_mode=mode), RecordEpisodeStatistics(native(autoreset_mode=mode))
    bare.reset(seed=0)
    envs.reset(seed=0)
    paid = np.zeros(2)
    for _ in range(3):
        paid += bare.step(wait(2))[1]
        *_, info = envs.step(wait(2))
    np.testing.assert_array_equal(info["_episode"], [True, True])
    np.testing.assert_array_equal(info["episode"]["l"], [3, 3])
    np.testing.assert_allclose(info["episode"]["r"], paid)


def test_statistics_of_the_others_survive_a_partial_reset():
    envs = RecordEpisodeStatistics(native(autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=None))
    envs.reset(seed=0)
    envs.step(wait(2))
    envs.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(2):
        *_, info = envs.step(wait(2))
    np.testing.assert_array_equal(info["_episode"], [False, True])
    assert info["episode"]["l"][1] == 3


def test_observations_can_be_normalized():
    envs = NormalizeObservation(native())
    obs, _ = envs.reset(seed=0)
    for _ in range(5):
        assert np.isfinite(obs).all()
        obs, *_ = envs.step(wait(2))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_infos_can_be_turned_into_a_list_of_dicts(mode):
    envs = DictInfoToList(native(autoreset_mode=mode))
    _, first = envs.reset(seed=0)
    assert "val_loss" not in first[0], "nothing was measured yet"
    for _ in range(3):
        *_, infos = envs.step(wait(2))
    last = infos[1].get("final_info", infos[1])
    assert {"action_mask", "reward_terms", "val_accuracy", "test_accuracy"} <= set(last)


def test_videos_can_be_recorded(monkeypatch, tmp_path):
    clips = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: int) -> None:
            clips.append((frames, fps))

        def write_videofile(self, path: str, logger: object) -> None:
            pass

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = Clip
    envs = RecordVideo(
        native(render_mode="rgb_array"), str(tmp_path / "videos"), episode_trigger=lambda _: True
    )
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(wait(2))
    envs.close()
    [(frames, fps)] = clips
    assert fps == EsperVectorEnv.metadata["render_fps"]
    assert len(frames) == 4, "one at the reset and one a step"
    assert all((one != other).any() for one, other in pairwise(frames))


@pytest.mark.parametrize("name", ["num_envs", "autoreset_mode"])
def test_arguments_of_make_vec_are_refused_by_make(name):
    with pytest.raises(ValueError, match=f"{name}=.* belongs to gymnasium.make_vec"):
        gym.make("EsperMicro-v0", **{name: 2}, **NULL)


WRONG = [
    ({"hosts": "micro"}, TypeError, "hosts"),
    ({"host": "resnet"}, ValueError, "host='resnet'"),
    ({"host": 3}, ValueError, "host=3"),
    ({"slots": ["nowhere"]}, ValueError, "nowhere"),
    ({"slots": 99}, ValueError, "slots=99"),
    ({"horizon": 0}, ValueError, "horizon=0"),
    ({"horizon": 3.0}, ValueError, "horizon=3.0"),
    ({"epoch_size": 100}, ValueError, "epoch_size=100"),
    ({"epoch_size": -64}, ValueError, "epoch_size=-64"),
    ({"batch_size": "64"}, ValueError, "batch_size='64'"),
    ({"data": "imagenet"}, ValueError, "data='imagenet'"),
    ({"data_dir": 3}, ValueError, "data_dir=3"),
    ({"reward": "rich"}, ValueError, "reward='rich'"),
    ({"gates": "lax"}, ValueError, "gates='lax'"),
    ({"param_budget": 0.5}, ValueError, "param_budget=0.5"),
    ({"compute_budget": 0.0}, ValueError, "compute_budget=0.0"),
    ({"max_modules": 0}, ValueError, "max_modules=0"),
    ({"auto_advance": ["G5"]}, ValueError, "auto_advance"),
    ({"gamma": 1.5}, ValueError, "gamma=1.5"),
    ({"isolation": "never"}, ValueError, "isolation='never'"),
    ({"max_episode_steps": 0}, ValueError, "max_episode_steps=0"),
    ({"autoreset_mode": "later"}, ValueError, "autoreset_mode='later'"),
    ({"strict_actions": "yes"}, ValueError, "strict_actions='yes'"),
    ({"engine": "fast"}, ValueError, "engine='fast'"),
    ({"device": "tpu"}, ValueError, "device='tpu'"),
    ({"render_mode": "human"}, ValueError, "render_mode='human'"),
    ({"overrides": {"reward.rents": 1.0}}, ValueError, "rents"),
    ({"overrides": {"reward.rent": "much"}}, ValueError, "reward.rent='much'"),
    ({"overrides": [1]}, ValueError, r"overrides=\[1\]"),
    ({"num_envs": 0}, ValueError, "num_envs=0"),
    ({"num_envs": True}, ValueError, "num_envs=True"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG, ids=[str(wrong[0]) for wrong in WRONG])
def test_a_wrong_argument_is_refused_by_name_before_any_data_is_touched(
    monkeypatch, arguments, kind, message
):
    monkeypatch.setattr("esper_env.engine.setup.load_task", lambda *_: pytest.fail("data were loaded"))
    with pytest.raises(kind, match=message):
        EsperVectorEnv(**{"num_envs": 2, "preset": "micro", **arguments})


def test_a_process_that_leaves_environments_open_ends_quietly() -> None:
    """Gymnasium before 1.3 closes them while the interpreter is shutting down."""
    code = """
import gymnasium as gym
import esper_env

class Knot:
    pass

knot = Knot()
knot.itself, knot.envs = knot, gym.make_vec("EsperMicro-v0", num_envs=2)
knot.envs.reset(seed=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_single_environment_answers_every_question_of_the_vector_environment() -> None:
    asked = {name for name in vars(QueriedVectorEnv) if name[0] != "_"} - {"close_extras"}
    assert asked >= {"ledger", "attribution", "get_state", "set_state", "export", "action_masks"}
    assert asked <= set(dir(EsperEnv))
    env = EsperEnv("micro", engine="null")
    env.reset(seed=0)
    worth = env.attribution()
    assert worth["contribution"].shape == (3,)
    assert worth["interaction"].shape == (3, 3)
    assert np.isnan(worth["joint"])
