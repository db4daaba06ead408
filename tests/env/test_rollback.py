"""What a rollback does to an episode, played by the rules over made-up networks that break when told to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lives import GROW, facts, game, plausible, rules_only
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, Head, Op, Stage, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import Script
from esper_env.mdp import governor
from esper_env.mdp.infos import END_KEYS

WAIT = encode(Op.WAIT)
FOSSILIZE = encode(Op.FOSSILIZE, slot=0)
PLANT = encode(Op.GERMINATE, slot=2, blueprint=1)
Broken = Mapping[int, Sequence[int]]
"""Environment -> epochs, counted from 1, in which its weights break."""


def breaking(when: Broken) -> Script:
    def script(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
        stats = plausible(slots, epochs)
        for env, broken in when.items():
            stats.finite[env] = epochs[env] not in broken
        return stats

    return script


def at(slot: int, actions: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    return [np.where(np.arange(8) == Head.SLOT, slot, action) for action in actions]


LIFE = [*GROW, FOSSILIZE, *at(1, GROW), PLANT]
"""20 steps: a fossil in slot 0, a module held in slot 1, a germinated one in slot 2."""


def games(when: Broken, num_envs: int = 1, **arguments: Any) -> EsperVectorEnv:
    env = rules_only(num_envs, breaking(when), horizon=40, **arguments)
    env.reset(seed=0)
    return env


def play(
    env: EsperVectorEnv, actions: Sequence[NDArray[np.int64]]
) -> list[tuple[NDArray[np.float32], NDArray[np.float64], dict[str, Any]]]:
    """The same action in every environment: observation, reward and info of every step."""
    seen = []
    for action in actions:
        obs, reward, *_, info = env.step(np.tile(action, (env.num_envs, 1)))
        seen.append((obs, reward, info))
    return seen


def test_a_rollback_prunes_what_is_not_committed_and_the_slots_cool_down_as_after_any_prune() -> None:
    env = games({0: [21]})
    play(env, LIFE)
    before = env._state.slots.copy()
    assert [Stage(s).name for s in before.stage[0]] == ["FOSSILIZED", "HOLDING", "GERMINATED"]
    lanes, legal = [], []
    for _ in range(8):
        play(env, [WAIT])
        lanes.append([Stage(s).name for s in env._state.slots.stage[0]])
        legal.append(env._masks.op_slot[0, Op.GERMINATE].tolist())
    cooling = ["PRUNED", *["EMBARGOED"] * 5, "RESETTING", "DORMANT"]
    assert lanes == [["FOSSILIZED", stage, stage] for stage in cooling]
    assert legal == [[0, 0, 0]] * 7 + [[0, 1, 1]], "GERMINATE is legal again as the eighth action after"
    play(env, [PLANT])
    after = env._state.slots
    assert (after.stage[0, 2], after.planting[0, 2]) == (Stage.GERMINATED, before.planting[0, 2] + 1)
    for name in ("blueprint", "module_params", "alpha", "planting", "contribution", "credit"):
        assert getattr(after, name)[0, 0] == getattr(before, name)[0, 0], f"{name} of the fossil"


def test_what_was_pruned_by_the_governor_leaves_nothing_behind() -> None:
    env = games({0: [21]})
    play(env, [*LIFE, WAIT])
    slots, blank = env._state.slots, SlotState.empty(1, 3)
    kept = {"stage", "planting", "alpha_velocity"}
    for name in set(SlotState.__dataclass_fields__) - kept:
        np.testing.assert_array_equal(getattr(slots, name)[0, 1:], getattr(blank, name)[0, 1:], err_msg=name)
    assert slots.alpha_velocity[0] == pytest.approx([0, -1, 0]), "alpha fell from 1"
    assert np.isnan(slots.interaction).all()
    assert all(np.isnan(values).all() for values in env.attribution().values())


class Returning:
    """Lets the engine say this of every network that comes back."""

    def __init__(self, env: EsperVectorEnv, loss: float, accuracy: float, flops: float) -> None:
        self.stats = EpochStats.empty(env.num_envs, 3)
        self.stats.val_loss[:], self.stats.val_accuracy[:] = loss, accuracy
        self.stats.measure_flops[:] = flops
        env._engine.restore = self.restore  # type: ignore[method-assign]

    def restore(self, envs: NDArray[np.bool_]) -> EpochStats:
        return self.stats


def test_what_came_back_is_shown_as_it_was_measured_and_the_penalty_is_paid_once() -> None:
    env, calm = games({0: [9]}, 2), games({}, 2)
    Returning(env, loss=1.75, accuracy=0.2345, flops=777.0)
    seen, twin = play(env, [WAIT] * 10), play(calm, [WAIT] * 10)
    obs, _, info = seen[8]
    for key, value in (("val_loss", 1.75), ("val_accuracy", 0.2345)):
        assert info[key].tolist() == [value, twin[8][-1][key][1]], "there alone"
    assert info["train_loss"].tolist() == twin[8][-1]["train_loss"].tolist(), "of the bad epoch"
    shown = [obs[0, env.features[name]].item() for name in ("evaluated", "val_loss", "val_quality")]
    assert shown == pytest.approx([1, np.log(2.75) / 7, 0.2345])
    history = obs[0, env.features["quality_history"]]
    assert history == pytest.approx(twin[8][0][0, env.features["quality_history"]]), "what was seen is known"
    won = [100 * (0.2345 - seen[7][-1]["val_accuracy"][0]), 100 * (seen[9][-1]["val_accuracy"][0] - 0.2345)]
    assert [step[-1]["reward_terms"]["quality"][0] for step in seen[8:]] == pytest.approx(won)
    assert [step[-1]["reward_terms"]["rollback"][0] for step in seen] == [0] * 8 + [-10] + [0]
    left = [float(step[0][0, env.features["panics_left"]][0]) for step in seen]
    assert left == pytest.approx([1.0] * 8 + [2 / 3] * 2)
    spent, usual = env.ledger(), calm.ledger()
    assert (spent["measure_flops"] - usual["measure_flops"]).tolist() == [777, 0]
    assert spent["counterfactual_flops"].tolist() == usual["counterfactual_flops"].tolist()


@pytest.mark.parametrize(
    ("chance", "loss", "accuracy", "expected"),
    [
        (0.1, 2.0, 0.3, 0.3), (0.1, np.inf, 0.07, 0.07), (0.0, 2.0, np.nan, 1 - 2 / np.log(10)),
        (0.0, np.inf, np.nan, 0.0), (0.1, np.nan, np.nan, 0.1),
    ],
    ids=["images", "images, infinite", "language", "language, infinite", "not a number"],
)  # fmt: skip
def test_the_quality_of_what_came_back_is_that_of_its_task_and_guessing_where_there_is_none(
    chance: float, loss: float, accuracy: float, expected: float
) -> None:
    state, stats = game(2), EpochStats.empty(2, 2)
    state.quality[:] = state.val_loss[:] = 0.5
    stats.val_loss[:], stats.val_accuracy[:], stats.measure_flops[:] = loss, accuracy, 1.0
    governor.roll_back(state, stats, np.array([True, False]), replace(facts(), chance_quality=chance))
    assert state.quality == pytest.approx([expected, 0.5])


def test_modules_that_went_do_not_count_for_the_quality_of_what_came_back() -> None:
    env = games({0: [21]})
    *_, before = play(env, LIFE)[-1]
    *_, info = play(env, [WAIT])[0]
    host = [0.1 + 0.3 * (1 - np.exp(-epoch / 10)) for epoch in (20, 21)]
    assert before["val_accuracy"][0] == pytest.approx(host[0] + 0.10), "a fossil and a held module"
    assert info["val_accuracy"][0] == pytest.approx(host[1] + 0.05), "the fossil alone"
    assert info["reward_terms"]["quality"][0] == pytest.approx(100 * (host[1] - host[0]) - 5)


class Kept:
    """Which environments the engine was told to keep, and after how many epochs of theirs."""

    def __init__(self, env: EsperVectorEnv) -> None:
        self.when: list[list[int]] = [[] for _ in range(env.num_envs)]
        """With a minus where only new fossils were to be added."""
        self.epochs = env._engine._epochs  # type: ignore[attr-defined]
        env._engine.keep = self.keep  # type: ignore[method-assign]

    def keep(self, envs: NDArray[np.bool_], fossils_only: NDArray[np.bool_]) -> None:
        for env in np.flatnonzero(envs).tolist():
            self.when[env].append(int(self.epochs[env]) * (-1 if fossils_only[env] else 1))


def test_snapshots_are_taken_at_reset_every_fifth_good_epoch_and_before_a_fossils_first_epoch() -> None:
    env = games({1: [3]}, num_envs=2)
    kept = Kept(env)
    env.reset(seed=0)
    still = [WAIT] * 10
    for action in [*GROW, FOSSILIZE, *still]:
        env.step(np.stack([action, WAIT]))
    assert kept.when[0] == [0, 5, 9, 14, 19], "fossilized in the tenth step, after nine epochs"
    assert kept.when[1] == [0, 8, 13, 18], "the third epoch was not good, and the count began anew"


def test_a_fossil_outlives_a_panic_in_its_very_first_epoch() -> None:
    env = games({0: [10]})
    seen = play(env, [*GROW, FOSSILIZE])
    assert env._state.slots.stage[0, 0] == Stage.FOSSILIZED
    assert env._state.rollbacks[0] == 1
    assert seen[-1][-1]["val_accuracy"][0] == pytest.approx(0.1 + 0.3 * (1 - np.exp(-1)) + 0.05)


def test_the_third_panic_ends_the_episode_with_its_outcome() -> None:
    env = games({0: [12, 14, 15]}, num_envs=2)
    play(env, [*GROW, FOSSILIZE])
    for step in range(5):
        *_, terminated, truncated, info = env.step(np.tile(WAIT, (2, 1)))
        assert terminated.tolist() == [step == 4, False]
        assert not truncated.any()
    for key in END_KEYS:
        assert np.isfinite(info[key][0]), key
        assert np.isnan(info[key][1]), key
    assert info["rollbacks"][0] == 3
    assert info["param_ratio"][0] > 1, "the fossil is part of the outcome"
    assert env.action_masks()[0].sum() == len(env.layout.nvec), "one entry a head: WAIT alone"


def test_an_episode_with_a_rollback_goes_on_to_its_horizon_and_the_next_begins_without_one() -> None:
    env = games({0: [12]}, autoreset_mode="NEXT_STEP")
    seen = play(env, [WAIT] * 40)
    assert seen[-1][-1]["rollbacks"][0] == 1
    assert np.isfinite(seen[-1][-1]["test_accuracy"][0])
    obs, *_ = play(env, [WAIT])[0]
    assert obs[0, env.features["panics_left"]] == 1
    assert env._state.rollbacks[0] == 0


def test_how_many_panics_end_an_episode_and_what_each_costs_are_fields() -> None:
    env = games({0: [2]}, overrides={"governor.max_panics": 1, "reward.rollback": 3.5})
    env.step(WAIT[None])
    obs, _, terminated, _, info = env.step(WAIT[None])
    assert terminated[0]
    assert info["reward_terms"]["rollback"][0] == -3.5
    assert obs[0, env.features["panics_left"]] == 0


def test_the_governors_prunes_cost_no_churn_and_neither_clocks_nor_costs_are_turned_back() -> None:
    env, calm = games({0: [21]}), games({})
    troubled, twin = play(env, [*LIFE, WAIT])[-1:], play(calm, [*LIFE, WAIT])[-1:]
    assert env.ledger()["train_flops"][0] == calm.ledger()["train_flops"][0]
    troubled, twin = troubled + play(env, [WAIT]), twin + play(calm, [WAIT])
    assert [step[-1]["reward_terms"]["churn"][0] for step in troubled] == [0, 0]
    rents = [step[-1]["reward_terms"]["rent"][0] for step in (troubled[0], twin[0])]
    assert rents[0] == rents[1] < 0, "what was there during the epoch is paid for"
    assert troubled[1][-1]["reward_terms"]["rent"][0] > twin[1][-1]["reward_terms"]["rent"][0]
    assert env._state.epoch[0] == calm._state.epoch[0] == 22
    assert env.ledger()["train_flops"][0] < calm.ledger()["train_flops"][0]
    assert env.ledger()["params"][0] < calm.ledger()["params"][0]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("broken", [[21], [3, 21, 30], [40], []])
def test_shaping_and_quality_add_up_over_rollbacks(gamma: float, broken: list[int]) -> None:
    env = games({0: broken}, gamma=gamma)
    terms = []
    for action in [*LIFE, *[WAIT] * 20]:
        *_, terminated, _, info = env.step(action[None])
        terms.append({name: info["reward_terms"][name][0] for name in ("shaping", "quality", "harvest")})
        if terminated[0]:
            break
    assert len(terms) == (30 if len(broken) == 3 else 40)
    assert sum(gamma**t * now["shaping"] for t, now in enumerate(terms)) == pytest.approx(0, abs=1e-9)
    won = sum(now["quality"] + now["harvest"] for now in terms)
    assert won == pytest.approx(100 * (info["harvest_accuracy"][0] - 0.1), abs=1e-9)


@pytest.mark.parametrize("reward", ["dense", "sparse", "economy"])
def test_one_environments_panics_change_no_bit_of_another(reward: str) -> None:
    troubled, calm = games({1: [4, 20, 25]}, 3, reward=reward), games({}, 3, reward=reward)
    others = [0, 2]
    for action in [*LIFE, *[WAIT] * 5]:
        (obs, paid, info), (twin_obs, twin_paid, twin_info) = (
            play(troubled, [action])[0],
            play(calm, [action])[0],
        )
        assert obs[others].tobytes() == twin_obs[others].tobytes()
        assert paid[others].tobytes() == twin_paid[others].tobytes()
        for key in ("op_slot_mask", "blueprint_slot_mask", "val_loss"):
            np.testing.assert_array_equal(info[key][others], twin_info[key][others])
    assert troubled._state.rollbacks.tolist() == [0, 3, 0]
    assert troubled._terminated.tolist() == [False, True, False]
