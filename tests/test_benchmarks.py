"""Rank agreement: what its figures mean, and that its agents do what their names say."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv, Place
from esper_env.blueprints import catalogue
from esper_env.mdp import prices

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a file of benchmarks/; what it registers is forgotten after the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    monkeypatch.setattr(prices, "OWN_TERMS", prices.OWN_TERMS.copy())
    monkeypatch.setattr("esper_env.mdp.reward.OWN_TERMS", prices.OWN_TERMS)
    return import_module


@pytest.fixture
def played(load):
    """The record of an agent's life on rules alone, strictly legal."""
    load("junk").register()
    env = EsperVectorEnv(1, "micro", engine="null", strict_actions=True)
    agents = load("roster").roster(30)
    return lambda name: evaluate(agents[name].build(env), env, [0]).episodes[0]


def life(ranks, **changes):
    terms = dict.fromkeys((*ranks.PRICED, "credit", *ranks.KEPT.values()), 0.0)
    figures = dict.fromkeys(ranks.Life.MEASURED, 1.0) | {"seed": 0, "chance": 0.1}
    counts = dict.fromkeys(("fossilized", "pruned", "invalid"), 0)
    return ranks.Life(**figures | counts | changes | {"terms": terms | changes.get("terms", {})})


def test_the_yardstick_is_test_accuracy_less_two_points_for_each_factor_e(load):
    ranks = load("ranks")
    lived = life(ranks, test_accuracy=0.6, param_ratio=np.e, flops_ratio=np.e**2)
    assert lived.yardstick == pytest.approx(60 - 2 - 4)
    assert lived.accuracy == pytest.approx(60)


def test_a_return_is_priced_by_hand_in_each_mode(load):
    ranks = load("ranks")
    terms = {
        "quality": 30.0,
        "harvest": -5.0,
        "rent": -2.0,
        "rollback": -10.0,
        "kept_shapley": 7.0,
    }
    lived = life(ranks, terms=terms, harvest_accuracy=0.35)
    returns = {mode: sum(ranks.priced(lived, mode).values()) for mode in ranks.MODES}
    assert returns["dense"] == returns["sparse"] == pytest.approx(30 - 5 - 2 - 10)
    assert returns["economy"] == pytest.approx(100 * 0.25 - 2 - 10)
    assert returns["economy, kept contribution"] == pytest.approx(20 * 0.25 - 2 - 10)
    assert returns["economy, kept shapley"] == pytest.approx(20 * 0.25 - 2 - 10 + 7)


def test_returns_computed_from_one_life_are_those_of_the_real_modes(load, monkeypatch):
    benchmark = load("rank_agreement")
    benchmark.register()
    monkeypatch.setattr(benchmark, "CHECKED", ("light x3",))
    few = {"task.val_size": 128, "task.test_size": 64, "engine.counterfactual_size": 64}
    small = {"horizon": 16, "epoch_size": 64, "overrides": few}
    benchmark.check(benchmark.Setting("micro", (0,), small))


def test_rank_correlation_of_means_and_within_seeds_is_spearmans_formula(load):
    ranks = load("ranks")
    returns = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 0.0]])
    worth = np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0], [4.0, 4.0]])
    squares = np.array([2, 4 * 5])  # sum of squared differences of places, by seed
    by_hand = 1 - 6 * squares / (4 * 15)
    assert ranks.by_seed(returns, worth).mean == pytest.approx(by_hand.mean())
    # Means: of the returns 2.5, 2.5, 2.5, 2 with places 3, 3, 3, 1; of the worth their own places.
    pearson = np.corrcoef([3, 3, 3, 1], [1, 2.5, 2.5, 4])[0, 1]
    assert ranks.of_means(returns, worth) == pytest.approx(pearson)


def test_the_interval_closes_where_every_seed_says_the_same_and_needs_three_seeds(load):
    ranks, rng = load("ranks"), np.random.default_rng(1)
    worth = np.repeat(rng.normal(size=(9, 1)), 4, axis=1)
    assert ranks.interval(worth, worth) == (1.0, 1.0)
    low, high = ranks.interval(worth + rng.normal(size=worth.shape), worth)
    assert -1 <= low < high < 1
    assert np.isnan(ranks.interval(worth[:, :2], worth[:, :2])).all()


@pytest.mark.parametrize("content", ["nothing", "noise", "frozen"])
def test_junk_trains_with_healthy_gradients_and_never_shows_it(load, content):
    module = load("junk")
    branch = module.Junk(Place("block0", "cnn", (4, 8, 8), 0.5), getattr(module, content))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = branch(x)
    first.square().sum().backward() if content != "nothing" else first.sum().backward()
    assert x.grad is None
    (parameter,) = branch.parameters()
    assert parameter.grad is not None
    assert parameter.grad.norm() > 1e-3
    with torch.no_grad():
        parameter += 1
    torch.testing.assert_close(branch(x), first, atol=1e-5, rtol=0)


def test_the_roster_is_large_and_plays_legally(load, played):
    agents = load("roster").roster(30)
    assert len(agents) >= 36
    assert len({load("rank_agreement")._file(Path(), name) for name in agents}) == len(agents)
    for name in agents:
        assert played(name).invalid == 0, name


@pytest.mark.parametrize(
    ("name", "germinated", "pruned", "fossilized"),
    [
        ("wait", 0, 0, 0),
        ("heavy x3, never committed", 3, 0, 0),
        ("heavy x3, committed last", 3, 0, 3),
        ("heavy x3, wavering", 3, 0, 3),
        ("heavy x3 at 0.5", 3, 0, 0),
        ("heavy x3 at 0.5, full from 1/2", 3, 0, 3),
        ("heavy x3, held once, pruned", 3, 3, 0),
        ("heavy x3, second planting kept", 6, 3, 3),
        ("heavy in 0, blended twice", 2, 1, 1),
        ("zero x3", 3, 0, 3),
    ],
)
def test_agents_do_what_their_names_say(played, name, germinated, pruned, fossilized):
    episode = played(name)
    assert (episode.ops["GERMINATE"], episode.pruned, episode.fossilized) == (germinated, pruned, fossilized)


def test_churning_agents_plant_again_and_again_and_keep_nothing(played):
    for name in (
        "heavy x3, pruned when planted",
        "heavy x3, pruned in training",
        "heavy x3, faded when held",
    ):
        episode = played(name)
        assert episode.pruned >= 3, name
        assert episode.fossilized == 0, name
    assert played("heavy x3, pruned when planted").ops["GERMINATE"] >= 9
