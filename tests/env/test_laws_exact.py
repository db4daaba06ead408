"""Laws of the reward that hold for every single life, in every mode: nothing here needs statistics."""

from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
import pytest
from cheats import INDEX, cheating
from laws import MODES, Lives, live
from lives import rules_only
from plain import accuracy, task_of, tiny
from scripted import SLOTS, Agent, churner, grower, saboteur, views, wait, wanderer

from esper_env import Stage, Style
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import plausible
from esper_env.tasks.task import Split

CONV_LIGHT, NORM = 1, 3
SEED = 7
PARTS = [part for size in range(4) for part in combinations(SLOTS, size)]


CALM = 4
"""Forward passes after which a module breaks, of which there is one an epoch in TRAINING."""
SMALL = {"engine.epoch_size": 64, "engine.counterfactual_size": 128}


def beside_waiting(
    *agents: Agent, overrides: dict[str, object] | None = None, **arguments: object
) -> tuple[Lives, Lives]:
    """The same life played by each agent, and once more by one who waits, repeated as often."""
    with cheating(CALM):
        overrides = SMALL | (overrides or {})
        env = tiny(len(agents) + 1, overrides, autoreset_mode="NextStep", **arguments)
    lives = live(env, [*agents, wait], [SEED] * env.num_envs)
    return lives.only(slice(0, -1)), lives.only([-1] * len(agents))


def qualities(lives: Lives) -> np.ndarray:
    """(step, env): what the quality term is made of."""
    return np.array([change.quality_after for change in lives.changes])


def troubled(share: float, seed: int) -> Callable[[SlotState, np.ndarray], EpochStats]:
    """The plausible statistics, but in random epochs a network breaks."""

    def script(slots: SlotState, epochs: np.ndarray) -> EpochStats:
        stats = plausible(slots, epochs)
        broken = np.random.default_rng(seed).random((200, len(epochs))) < share
        stats.finite = ~broken[epochs, np.arange(len(epochs))]
        return stats

    return script


@pytest.mark.parametrize("gamma", [1.0, 0.95])
def test_a_life_priced_afterwards_is_paid_what_each_mode_itself_pays(gamma: float) -> None:
    played = {}
    for mode in MODES:
        env = rules_only(6, troubled(0.05, 2), reward=mode, gamma=gamma, autoreset_mode="NextStep")
        played[mode] = live(env, [wanderer(seed) for seed in range(6)], SEED)
    discount = gamma ** np.arange(len(played["dense"].played))[:, None]
    for mode, lives in played.items():
        paid = (discount * lives.rewards).sum(axis=0)
        np.testing.assert_allclose(played["dense"].returns(mode, gamma), paid, atol=1e-9)
        np.testing.assert_array_equal(qualities(lives), qualities(played["dense"]))
        assert len(set(paid.round(6))) == 6, "these lives differ in what they are worth"


@pytest.mark.parametrize("compute_budget", [None, 0.6])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.15])
def test_shaping_adds_the_same_to_any_two_lives_however_they_end(
    compute_budget: float | None, share: float
) -> None:
    env = rules_only(12, troubled(share, 1), autoreset_mode="NextStep", compute_budget=compute_budget)
    last = 18 if compute_budget else 30
    growers = [  # of what hardly costs FLOPs, so that a budget ends them with those that wait
        grower(NORM),
        grower(NORM, commit_at=None),
        grower(NORM, (1,), start=last - 7),
    ]
    lives = live(env, [*growers, *(wanderer(seed) for seed in range(9))], SEED)
    for gamma in (1.0, 0.95):
        shaping = lives.sums("dense", gamma)["shaping"]
        assert np.abs(shaping - shaping[0]).max() < 1e-6
    assert (lives.stages() == Stage.PRUNED).any()
    if share == 0.15:
        assert lives.panics.max() == 3, "some lives end with the third panic"
    assert (lives.panics > 0).any() == (share > 0)
    length = np.sum(lives.played, axis=0)
    assert length.max() == last
    ends = lives.stages()[length - 1, np.arange(12)]
    if share == 0:
        assert {Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED} <= set(ends.ravel().tolist())


def test_shaping_adds_the_same_where_fossils_outlive_a_rollback_and_held_modules_do_not() -> None:
    def breaking(slots: SlotState, epochs: np.ndarray) -> EpochStats:
        stats = plausible(slots, epochs)
        stats.finite = ~((epochs == 20) & (np.arange(len(epochs)) < 2))
        return stats

    env = rules_only(3, breaking, autoreset_mode="NextStep")
    lives = live(env, [grower(CONV_LIGHT), grower(CONV_LIGHT, commit_at=None), wait], SEED)
    assert lives.panics.tolist() == [1, 1, 0]
    assert (lives.stages()[[18, -1], 0] == Stage.FOSSILIZED).all()
    assert (lives.stages()[18, 1] == Stage.HOLDING).all()
    assert (lives.stages()[19, 1] == Stage.PRUNED).all()
    for gamma in (1.0, 0.95):
        shaping = lives.sums("dense", gamma)["shaping"]
        assert np.abs(shaping - shaping[2]).max() < 1e-6


def test_shaping_adds_the_same_through_rollbacks_of_real_networks() -> None:
    agents = [saboteur(INDEX["late_nan"], count) for count in (1, 2, 3)]
    lives, waiting = beside_waiting(*agents, grower(INDEX["rescale"]), wanderer(0), horizon=24)
    assert lives.panics.tolist() == [1, 2, 3, 0, 0]
    for gamma in (1.0, 0.95):
        for mode in MODES:
            difference = lives.sums(mode, gamma)["shaping"] - waiting.sums(mode, gamma)["shaping"]
            assert np.abs(difference).max() < 1e-6


def test_planting_and_pruning_at_any_cadence_loses_what_it_costs_while_the_host_is_untouched() -> None:
    agents = [churner(CONV_LIGHT, cadence, (1,), reach=Stage.TRAINING) for cadence in range(1, 21)]
    agents += [churner(CONV_LIGHT, cadence, reach=Stage.GERMINATED) for cadence in (1, 4, 20)]
    lives, waiting = beside_waiting(*agents, horizon=22, overrides={"lifecycle.min_prune_age": 0})
    np.testing.assert_array_equal(qualities(lives), qualities(waiting))
    assert (lives.stages() == Stage.PRUNED).any(axis=(0, 2)).all()
    loses_its_costs(lives, waiting)


def loses_its_costs(lives: Lives, waiting: Lives) -> None:
    """In every mode; not less than the first plant costs."""
    assert (lives.costs() <= -0.15).all()
    for mode in MODES:
        np.testing.assert_allclose(lives.returns(mode) - waiting.returns(mode), lives.costs(), atol=1e-9)


@pytest.mark.parametrize("speed", range(4))
def test_churn_that_reaches_blending_loses_what_it_costs_where_modules_are_of_no_use(speed: int) -> None:
    def useless(slots: SlotState, epochs: np.ndarray) -> EpochStats:
        empty = slots.copy()
        empty.alpha[:] = 0
        stats, learning = plausible(slots, epochs), plausible(empty, epochs)
        stats.val_accuracy, stats.val_loss = learning.val_accuracy, learning.val_loss
        return stats

    env = rules_only(21, useless, horizon=40, overrides={"lifecycle.min_prune_age": 0})
    lives = live(env, [*(churner(CONV_LIGHT, cadence, speed=speed) for cadence in range(1, 21)), wait], SEED)
    assert (lives.stages() == Stage.BLENDING).any(axis=(0, 2)).sum() >= 10
    loses_its_costs(lives.only(slice(0, 20)), lives.only([20] * 20))


def test_fossils_that_return_zero_lose_what_they_cost() -> None:
    styles = (Style.LINEAR_ADD, Style.LINEAR_MULTIPLY, Style.SIGMOID_ADD)
    lives, waiting = beside_waiting(*(grower(INDEX["zero"], style=style) for style in styles))
    assert (lives.stages()[-1] == Stage.FOSSILIZED).all(), "no gate can tell"
    np.testing.assert_array_equal(qualities(lives), qualities(waiting))
    assert (lives.credit() == 0).all()
    loses_its_costs(lives, waiting)


def test_modules_that_learn_nothing_are_refused_by_the_gates_and_lose_what_they_cost() -> None:
    lives, waiting = beside_waiting(*(grower(INDEX[name]) for name in ("frozen", "unlearnable")))
    assert (lives.stages()[-1] == Stage.TRAINING).all()
    np.testing.assert_array_equal(qualities(lives), qualities(waiting))
    loses_its_costs(lives, waiting)


def test_what_a_module_takes_over_pays_only_what_the_harvested_network_gains() -> None:
    agents = [grower(INDEX["rescale"], SLOTS[:2]), grower(NORM), grower(INDEX["rescale"], commit_at=None)]
    lives, waiting = beside_waiting(*agents)
    taken = np.nanmax([change.after.contribution for change in lives.changes], axis=(0, 2))
    assert (taken > 3).all(), "without the modules much would be lost"
    gain = lives.points("harvest") - waiting.points("harvest")
    for mode in MODES:
        np.testing.assert_allclose(
            lives.returns(mode) - waiting.returns(mode), gain + lives.costs(), atol=1e-9
        )
    assert lives.credit()[2] == pytest.approx(0, abs=1e-9), "what is not committed keeps no credit"


def test_committing_later_changes_no_bit_and_pays_no_more() -> None:
    agents = [grower(CONV_LIGHT, (1,), commit_at=step) for step in (0, 13, 16, 19)]
    lives, _ = beside_waiting(*agents)
    assert (lives.stages()[-1, :, 1] == Stage.FOSSILIZED).all()
    np.testing.assert_array_equal(qualities(lives), np.tile(qualities(lives)[:, :1], (1, 4)))
    assert len(set(lives.points("harvest"))) == 1
    for mode in MODES:
        np.testing.assert_allclose(lives.returns(mode), lives.returns(mode)[0], atol=1e-9)
    assert lives.credit()[-1] > lives.credit()[0], "where credit is kept, the later is worth more"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_provoked_rollback_costs_its_penalty_and_wins_nothing(count: int) -> None:
    def breaking(slots: SlotState, epochs: np.ndarray) -> EpochStats:
        stats = plausible(slots, epochs)
        stats.finite = ~(np.isin(epochs, (4, 13, 17)[:count]) & (np.arange(len(epochs)) == 0))
        return stats

    env = rules_only(2, breaking, autoreset_mode="NextStep")
    lives = live(env, [grower(CONV_LIGHT, commit_at=None), wait], SEED)
    assert lives.panics.tolist() == [count, 0]
    for mode in MODES:
        returns = lives.returns(mode)
        assert returns[0] - returns[1] <= -10 * count


def test_networks_broken_on_purpose_lose_in_every_mode() -> None:
    lives, waiting = beside_waiting(*(saboteur(INDEX["late_nan"], count) for count in (1, 3)), horizon=24)
    assert lives.panics.tolist() == [1, 3]
    for mode in MODES:
        gained = lives.returns(mode) - waiting.returns(mode)
        assert (gained <= -10 * lives.panics).all(), (mode, gained, lives.panics)


def test_real_modules_are_credited_what_an_evaluation_in_plain_torch_says_they_share() -> None:
    env = tiny(overrides=SMALL)
    grow, (_, info) = grower(CONV_LIGHT, commit_at=None), env.reset(seed=SEED)
    for step in range(19):
        *_, info = env.step([grow(view) for view in views(env, info, step)])
    first = Split(*(values[:128] for values in task_of(env).validation))
    alphas = env._state.slots.alpha[0]
    assert (alphas > 0).all()
    f = {part: accuracy(env, first, {slot: alphas[slot] for slot in part}) for part in PARTS}
    orders = list(permutations(SLOTS))

    def adds(slot: int, order: tuple[int, ...]) -> float:
        before = order[: order.index(slot)]
        return f[tuple(sorted((*before, slot)))] - f[tuple(sorted(before))]

    shares = [np.mean([adds(slot, order) for order in orders]) for slot in SLOTS]
    worth = {name: value[0] for name, value in env.attribution().items()}
    np.testing.assert_allclose(worth["shapley"], shares, atol=1e-6)
    lost = [f[SLOTS] - f[part] for part in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(worth["contribution"], lost, atol=1e-6)
    assert worth["shapley"].sum() == pytest.approx(f[SLOTS] - f[()], abs=1e-6)
    assert np.abs(worth["interaction"][0, 1] - (f[0, 1] - f[0,] - f[1,] + f[()])) < 1e-6
    assert np.abs(shares).min() > 0.1
