"""Infos have Gymnasium's vector form: the same keys always, partners, NaN where something is missing."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from lives import plausible, rules_only

from esper_env import EsperEnv, EsperVectorEnv, Op, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats

SAME_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
END_KEYS = ["harvest_accuracy", "harvest_loss", "test_accuracy", "test_loss", "param_ratio", "flops_ratio"]
END_KEYS += ["rollbacks"]
TERMS = {"quality", "harvest", "rent", "churn", "op_cost", "shaping", "credit", "rollback"}
ALWAYS = ["action_mask", "op_slot_mask", "blueprint_slot_mask", "action_valid"]
WAIT = np.stack([encode(Op.WAIT)] * 2)
PLANT = np.stack([encode(Op.GERMINATE, slot=0, blueprint=1)] * 2)


def batch(mode: AutoresetMode) -> EsperVectorEnv:
    return EsperVectorEnv(2, "micro", autoreset_mode=mode, engine="null", horizon=3)


def every_info(mode: AutoresetMode) -> Iterator[dict]:
    """The infos of two resets and of two episodes' steps."""
    envs = batch(mode)
    yield envs.reset(seed=0)[1]
    for _ in range(9):
        *_, terminated, _, info = envs.step(WAIT)
        yield info
        if mode == DISABLED and terminated.any():
            yield envs.reset(options={"reset_mask": terminated})[1]
    yield envs.reset(seed=1)[1]


def flat(info: dict, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for key, value in info.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("mode", AutoresetMode)
def test_infos_hold_the_same_keys_always_and_missing_floats_are_nan(mode):
    keys = None
    for info in every_info(mode):
        entries = {key: value for key, value in flat(info).items() if "final_" not in key}
        assert set(entries) == (keys or set(entries))
        keys = set(entries)
        for key, value in entries.items():
            *path, name = key.split(".")
            if name[0] == "_":
                assert (value.dtype, value.shape) == (np.bool_, (2,))
                continue
            present = entries[".".join([*path, f"_{name}"])]
            assert len(value) == 2
            if value.dtype.kind == "f":
                np.testing.assert_array_equal(present, ~np.isnan(value))
            else:
                assert present.all()
    assert {*ALWAYS, *END_KEYS, "train_loss", "val_loss", "val_accuracy", "_reward_terms"} <= keys


def test_a_final_info_is_missing_where_no_episode_ended():
    envs = batch(SAME_STEP)
    envs.reset(seed=0)
    envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(WAIT)
    *_, info = envs.step(WAIT)
    final = flat(info["final_info"])
    for key in (*END_KEYS, "train_loss", "reward_terms.quality"):
        np.testing.assert_array_equal(np.isnan(final[key]), [False, True])
    for key in (key for key in final if key.rpartition(".")[2][0] == "_"):
        np.testing.assert_array_equal(final[key], [True, False])


def test_what_was_returned_stays_as_it_was():
    envs = batch(SAME_STEP)
    returned = [envs.reset(seed=0)]
    then = copy.deepcopy(returned)
    for _ in range(5):
        step = envs.step(envs.sample_valid(np.random.default_rng(0)))
        returned.append(step)
        then.append(copy.deepcopy(step))
    for was, now in zip(then, returned, strict=True):
        for one, other in zip(was[:-1], now[:-1], strict=True):
            np.testing.assert_array_equal(one, other)
        for key, value in flat(was[-1]).items():
            if key not in ("final_obs", "_final_obs"):
                np.testing.assert_array_equal(value, flat(now[-1])[key])


def test_writing_into_what_was_returned_changes_nothing_later():
    envs, twin = batch(DISABLED), batch(DISABLED)
    obs, info = envs.reset(seed=0)
    twin.reset(seed=0)
    for array in (obs, *flat(info).values()):
        array[...] = 0
    np.testing.assert_array_equal(envs.action_masks(), twin.action_masks())
    for one, other in zip(envs.step(PLANT)[:4], twin.step(PLANT)[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_single_environments_info_is_plain():
    env = EsperEnv("micro", engine="null", horizon=1)
    _, first = env.reset(seed=0)
    assert set(first) == set(ALWAYS)
    _, reward, *_, info = env.step(WAIT[0])
    assert not any(key.startswith("_") for key in flat(info))
    assert type(info["action_valid"]) is bool
    assert all(type(info[key]) is float for key in (*END_KEYS, "train_loss", "val_loss", "val_accuracy"))
    assert set(info["reward_terms"]) == TERMS
    assert sum(info["reward_terms"].values()) == pytest.approx(reward)
    assert info["op_slot_mask"].shape == (6, 3)


@pytest.mark.parametrize("mode", ["dense", "sparse", "economy"])
def test_the_terms_have_the_same_names_in_every_mode_and_add_up_to_the_reward(mode: str) -> None:
    envs = rules_only(4, reward=mode, autoreset_mode="NEXT_STEP", horizon=12)
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(30):
        _, reward, *_, info = envs.step(envs.sample_valid(rng))
        terms = {name: values for name, values in info["reward_terms"].items() if name[0] != "_"}
        assert set(terms) == TERMS
        np.testing.assert_allclose(sum(terms.values()), reward, rtol=0, atol=1e-12)


def test_after_a_rollback_to_the_network_of_the_reset_that_network_is_measured() -> None:
    def breaks(slots: SlotState, epochs: np.ndarray) -> EpochStats:
        stats = plausible(slots, epochs)
        stats.train_loss[0] = np.nan
        return stats

    envs = rules_only(2, breaks)
    envs.reset(seed=0)
    rollbacks = []
    for epoch in range(1, 4):
        *_, terminated, _, info = envs.step(WAIT)
        accuracy = 0.1 + 0.3 * (1 - np.exp(-epoch / 10))
        np.testing.assert_allclose(info["val_accuracy"], accuracy, rtol=1e-12)
        np.testing.assert_allclose(info["val_loss"], -np.log(accuracy), rtol=1e-12)
        assert info["train_loss"][0] == np.inf, "the loss of the epoch that broke it, which was measured"
        assert all(info[f"_{key}"].all() for key in ("train_loss", "val_loss", "val_accuracy"))
        rollbacks.append(info["reward_terms"]["rollback"].tolist())
    assert rollbacks == [[-10.0, 0.0]] * 3
    assert terminated.tolist() == [True, False]
    for key in END_KEYS:
        np.testing.assert_array_equal(info[f"_{key}"], [True, False])
    assert info["rollbacks"][0] == 3
