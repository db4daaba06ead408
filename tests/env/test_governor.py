"""When a network counts as broken: every threshold by hand, all against a governor in plain Python."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import facts, game

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState
from esper_env.contracts.stats import EpochStats
from esper_env.mdp import governor
from esper_env.mdp.governor import GovernorConfig, Verdict

IMAGES = facts()
LANGUAGE = replace(IMAGES, chance_quality=0.0, chance_loss=float(np.log(4096)))
TASKS = pytest.mark.parametrize("where", [IMAGES, LANGUAGE], ids=["10 classes", "4096 tokens"])


def showing(loss: list[float], train_loss: float | None = None, finite: bool = True) -> EpochStats:
    """An epoch of environments with these validation losses; the training losses are the same by default."""
    stats = EpochStats.empty(len(loss), 2)
    stats.val_loss[:], stats.finite[:] = loss, finite
    stats.train_loss[:] = loss if train_loss is None else train_loss
    return stats


def judge(
    state: GameState, stats: EpochStats, where: HostFacts = IMAGES, config: GovernorConfig | None = None
) -> Verdict:
    played = np.ones(len(state.epoch), dtype=bool)
    return governor.judge(state, stats, played, where, config or GovernorConfig())


def after(*losses: float, where: HostFacts = IMAGES, config: GovernorConfig | None = None) -> GameState:
    """One environment that has shown these losses."""
    state = game()
    for loss in losses:
        judge(state, showing([loss]), where, config)
    return state


def found(verdict: Verdict, env: int = 0) -> str:
    names = [name for name in ("non_finite", "collapsed", "diverged", "good") if getattr(verdict, name)[env]]
    assert len(names) <= 1, names
    return names[0] if names else "bad"


@pytest.mark.parametrize(
    "stats",
    [
        showing([np.nan], train_loss=1.0), showing([np.inf], train_loss=1.0),
        showing([1.0], train_loss=np.nan), showing([1.0], train_loss=np.inf), showing([1.0], finite=False),
    ],
    ids=["validation NaN", "validation inf", "training NaN", "training inf", "weight or gradient"],
)  # fmt: skip
def test_anything_that_is_not_finite_is_a_panic_at_once(stats: EpochStats) -> None:
    state = game()
    verdict = judge(state, stats)
    assert found(verdict) == "non_finite"
    assert verdict.panicked.tolist() == [True]
    assert np.isnan(state.good_losses).all()
    assert (state.since_snapshot[0], state.has_learned[0]) == (0, False)


def test_what_does_not_play_is_not_judged_and_counts_nothing() -> None:
    state = game(2)
    verdict = governor.judge(
        state, showing([np.nan, 1.0], finite=False), np.array([False, False]), IMAGES, GovernorConfig()
    )
    assert not (verdict.panicked | verdict.good).any()
    assert (state.since_snapshot.tolist(), state.divergent.tolist()) == ([0, 0], [0, 0])
    assert np.isnan(state.good_losses).all()


@TASKS
@pytest.mark.parametrize(("share", "learned"), [(0.61, False), (0.6001, False), (0.5999, True), (0.1, True)])
def test_a_network_has_learned_below_six_tenths_of_chance(
    where: HostFacts, share: float, learned: bool
) -> None:
    state = after(share * where.chance_loss, where=where)
    assert state.has_learned[0] == learned
    verdict = judge(state, showing([where.chance_loss]), where)
    assert found(verdict) == ("collapsed" if learned else "good")


@TASKS
@pytest.mark.parametrize(("off", "near"), [(0, True), (0.0649, True), (0.0651, False), (0.5, False)])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("moved", ["validation", "training", "both"])
def test_a_collapse_is_both_losses_within_six_and_a_half_percent_of_chance(
    where: HostFacts, off: float, near: bool, side: int, moved: str
) -> None:
    away, chance = (1 + side * off) * where.chance_loss, where.chance_loss
    loss, train_loss = chance if moved == "training" else away, chance if moved == "validation" else away
    verdict = judge(after(0.3 * chance, where=where), showing([loss], train_loss), where)
    assert found(verdict) == ("collapsed" if near else "good")
    assert verdict.panicked[0] == near


SPEC = GovernorConfig(collapse_in_training=False)
"""The validation loss alone tells a collapse."""


@TASKS
@pytest.mark.parametrize("train_loss", [0.01, 1.07, 3.0, 50.0])
def test_by_the_validation_loss_alone_whatever_the_training_loss_is(
    where: HostFacts, train_loss: float
) -> None:
    for off, finding in ((0.0649, "collapsed"), (-0.0649, "collapsed"), (0.0651, "good"), (-0.0651, "good")):
        state = after(0.3 * where.chance_loss, where=where, config=SPEC)
        shown = showing([(1 + off) * where.chance_loss], train_loss)
        assert found(judge(state, shown, where, SPEC)) == finding


def test_a_network_that_fits_its_samples_and_validates_badly_for_an_epoch_did_not_collapse() -> None:
    """Losses of an epoch of EsperMicro in which the network was right on 29 % of the validation split."""
    shown = showing([2.40], train_loss=1.07)
    assert found(judge(after(1.2), shown)) == "good"
    assert found(judge(after(1.2, config=SPEC), shown, config=SPEC)) == "collapsed"


def test_a_first_loss_at_chance_is_no_collapse() -> None:
    state = game()
    for _ in range(30):
        assert found(judge(state, showing([np.log(10)]))) == "good"


EVEN, WIDE = [0.5] * 10, [0.2, 1.8] * 5
"""Mean 0.5, sigma 0: three means are the bound, 1.5. Mean 1, sigma 0.8: mean + 6 sigma is, 5.8."""


@pytest.mark.parametrize(("losses", "bound"), [(EVEN, 1.5), (WIDE, 5.8)])
def test_a_loss_is_out_of_bounds_above_three_means_and_above_mean_plus_six_sigma(
    losses: list[float], bound: float
) -> None:
    assert found(judge(after(*losses), showing([0.999 * bound]))) == "good"
    assert found(judge(after(*losses), showing([1.001 * bound]))) == "bad"


def test_out_of_bounds_three_times_running_is_a_panic_and_a_good_epoch_in_between_resets_it() -> None:
    state, shown = after(*EVEN), []
    for loss in (9.0, 9.0, 0.5, 9.0, 8.0, 7.0):
        verdict = judge(state, showing([loss]))
        shown.append(found(verdict))
    assert shown == ["bad", "bad", "good", "bad", "bad", "diverged"]
    assert verdict.panicked[0]


def test_nothing_diverges_before_ten_good_epochs() -> None:
    state = after(*[0.5] * 9)
    assert found(judge(state, showing([50.0]))) == "good", "the tenth"
    state = after(*[0.5] * 10)
    assert [found(judge(state, showing([50.0]))) for _ in range(3)] == ["bad", "bad", "diverged"]


def test_bad_epochs_stay_out_of_the_window_and_it_holds_the_last_twenty() -> None:
    state = after(*[1.3] * 5, *[0.1] * 20)
    window = state.good_losses.copy()
    assert window.tolist() == [[0.1] * 20]
    assert found(judge(state, showing([0.35]))) == "bad", "of all 25 epochs it would be within bounds"
    assert found(judge(state, showing([np.nan]))) == "non_finite"
    assert found(judge(state, showing([np.log(10)]))) == "collapsed"
    np.testing.assert_array_equal(state.good_losses, window)
    judge(state, showing([0.12]))
    assert state.good_losses[0, :2].tolist() == [0.12, 0.1]


def test_a_snapshot_is_due_at_every_fifth_good_epoch() -> None:
    state, due = after(*EVEN), []
    governor.snapshot(state, np.array([True]))
    for loss in [0.5] * 4 + [9.0] * 2 + [0.5] * 6:
        verdict = judge(state, showing([loss]))
        due.append(bool(governor.due(state, verdict, GovernorConfig())[0]))
        governor.snapshot(state, np.array(due[-1:]))
    assert due == [False] * 6 + [True] + [False] * 4 + [True]


def test_a_network_put_back_to_before_it_learned_can_not_collapse_to_where_it_was() -> None:
    state = after(2.2, 1.9)
    governor.snapshot(state, np.array([True]))
    judge(state, showing([1.0]))
    assert found(judge(state, showing([np.nan]))) == "non_finite"
    governor.roll_back(state, showing([1.9]), np.array([True]), IMAGES)
    assert found(judge(state, showing([2.25]))) == "good"
    judge(state, showing([1.0]))
    assert found(judge(state, showing([2.25]))) == "collapsed"


class Watchman:
    """The governor of one environment, from the text of the rules, in plain Python."""

    def __init__(self, levels: Sequence[float], both: bool) -> None:
        self.levels, self.both = levels, both
        self.good, self.running, self.since, self.panics = [1.0][:0], 0, 0, 0
        self.learned = self.learned_then = frozenset[float]()

    def see(self, loss: float, train_loss: float, finite: bool) -> str:
        finding = self.finding(loss, train_loss, finite)
        if finding == "good":
            self.good = [*self.good, loss][-20:]
            self.learned |= {level for level in self.levels if loss < 0.6 * level}
            self.since += 1
        elif finding != "bad":
            self.panics, self.running, self.since, self.learned = self.panics + 1, 0, 0, self.learned_then
        if self.since == 5:
            self.since, self.learned_then = 0, self.learned
        return finding

    def finding(self, loss: float, train_loss: float, finite: bool) -> str:
        if not (finite and isfinite(loss) and isfinite(train_loss)):
            return "non_finite"
        shown = (loss, train_loss) if self.both else (loss,)
        if any(all(0.935 < each / level < 1.065 for each in shown) for level in self.learned):
            return "collapsed"
        out = len(self.good) >= 10 and loss > 3 * fmean(self.good)
        out = out and loss > fmean(self.good) + 6 * pstdev(self.good)
        self.running = self.running + 1 if out else 0
        return ("diverged" if self.running == 3 else "bad") if out else "good"


def troubled(
    rng: np.random.Generator, shape: tuple[int, int], levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epoch, env): losses that fall, noisily, with spells of trouble; those in training; what is finite."""
    epochs = np.arange(shape[0])[:, None]
    losses = levels[0] * 0.93**epochs * np.exp(0.1 * rng.standard_normal(shape))
    for _ in range(3):
        start, length = rng.integers(0, len(epochs), shape[1]), rng.integers(1, 6, shape[1])
        spell = (epochs >= start) & (epochs < start + length)
        losses = np.where(spell, losses * rng.choice([1.5, 4.0, 20.0], shape[1]), losses)
    training = losses * np.exp(0.1 * rng.standard_normal(shape))
    for each, share in ((losses, 0.1), (training, 0.3)):
        at_chance = rng.random(shape) < share
        level = np.array(levels)[rng.integers(len(levels), size=at_chance.sum())]
        each[at_chance] = level * rng.uniform(0.92, 1.08, at_chance.sum())
        each[rng.random(shape) < 0.005] = rng.choice([np.nan, np.inf])
    return losses, training, rng.random(shape) > 0.01


def matching(seed: int, both: bool = True, where: HostFacts = IMAGES) -> list[list[str]]:
    """Compare 32 environments, judged together, with 32 watchmen; what was found in each epoch."""
    levels = where.chance_loss, where.uninformed_loss
    state, watchmen = game(32), [Watchman(levels, both) for _ in range(32)]
    config, seen = GovernorConfig(collapse_in_training=both), []
    for epoch in zip(*troubled(np.random.default_rng(seed), (60, 32), levels), strict=True):
        stats = showing(epoch[0].tolist())
        stats.train_loss[:], stats.finite[:] = epoch[1:]
        verdict = judge(state, stats, where, config)
        governor.roll_back(state, showing([1.0] * 32), verdict.panicked, where)
        governor.snapshot(state, governor.due(state, verdict, config))
        seen.append([watchman.see(*shown) for watchman, *shown in zip(watchmen, *epoch, strict=True)])
        assert [found(verdict, env) for env in range(32)] == seen[-1]
        for name, own in (("rollbacks", "panics"), ("since_snapshot", "since")):
            assert getattr(state, name).tolist() == [getattr(watchman, own) for watchman in watchmen], name
        learned = np.stack([state.has_learned, state.has_learned_context], axis=1)
        assert learned.tolist() == [[level in each.learned for level in levels] for each in watchmen]
    return seen


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), both=st.booleans())
def test_random_troubles_are_judged_as_a_governor_in_plain_python_does(seed: int, both: bool) -> None:
    matching(seed, both)


def test_the_random_troubles_show_everything_that_can_be_found_and_tell_the_two_rules_apart() -> None:
    both, alone = (np.array(matching(0, rule)) for rule in (True, False))
    for seen in (both, alone):
        assert set(seen.flat) == {"good", "bad", "non_finite", "collapsed", "diverged"}
    assert 3 < (both == "collapsed").sum() < (alone == "collapsed").sum()


def test_every_threshold_is_a_field() -> None:
    strict = GovernorConfig(
        learned_below=0.9, chance_margin=0.2, patience=1, min_window=2, divergence_sigmas=0
    )
    state = after(1.0, 1.0, config=strict)
    assert found(judge(state, showing([2.0]), config=strict)) == "collapsed"
    assert found(judge(state, showing([6.1]), config=strict)) == "diverged"
    tight = GovernorConfig(
        learned_below=0.5, divergence_factor=1.1, min_window=2, patience=1, snapshot_every=2
    )
    state = after(2.0, 2.0, config=tight)
    verdict = judge(state, showing([2.3]), config=tight)
    assert found(verdict) == "diverged"
    verdict = judge(state, showing([1.9]), config=tight)
    assert governor.due(state, verdict, tight)[0]


def test_a_window_that_can_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"governor.min_window=30 is not allowed: at most window=20 is"):
        GovernorConfig(min_window=30)
