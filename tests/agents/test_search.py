"""The search finds what is best, is not fooled by luck, and repeats."""

import json
from itertools import pairwise

import numpy as np
import pytest
from made_up import make

from esper_agents.search import Job, Life, Planting, Players, SearchConfig, search_plan
from esper_agents.search.evolution import Evolution
from esper_agents.search.plan import start_lives
from esper_agents.search.ranking import rank
from esper_agents.search.vary import Variation
from esper_env import EsperVectorEnv

FACTS = make(1).facts
PRIZES = {"conv_heavy": (20.0, 4.0, 0.0), "norm": (3.0, 12.0, 6.0), "attention": (1.0, 2.0, 9.0)}
"""Points of a blueprint in each slot, when it is planted at once."""
BEST = 20.0 + 12.0 + 9.0
LUCK = 10 * np.random.default_rng(99).normal(size=16)
"""Points that each host gives to everybody."""


def worth(life):
    """Points of a life: what is committed where, less half a point an epoch of waiting."""
    kept = [each for each in life.plantings if each.commit is not None]
    points = (PRIZES.get(each.blueprint, (-2.0,) * 3)[each.slot] - each.epoch / 2 for each in kept)
    return sum(points, start=0.0) - len(life.plantings) + len(kept)


def searched(noise, generations, seed=0, size=24, **settings):
    """An evolution that was told the worth of its lives, with luck of hosts and noise."""
    config = SearchConfig(seed=seed, generation=size, **settings)
    evolution = Evolution(config, Variation(FACTS, 30), list(range(16)), [Life()])
    go_on(evolution, noise, generations)
    return evolution


def go_on(evolution, noise, generations):
    """Tell it what it asks for."""
    for _ in range(generations):
        jobs = evolution.ask(evolution.config.generation)
        rng = np.random.default_rng([7, evolution.config.seed, evolution.generations])
        evolution.tell(jobs, [worth(job.life) + LUCK[job.seed] + noise * rng.normal() for job in jobs])


def test_without_noise_it_finds_the_best_life():
    found = [worth(searched(0.0, 40, seed).best()) for seed in range(3)]
    assert min(found) > BEST - 2


def test_with_noise_it_finds_more_than_the_best_of_as_many_draws():
    found = [worth(searched(4.0, 14, seed).best()) for seed in range(8)]
    variation, rng = Variation(FACTS, 30), np.random.default_rng(0)
    # Draws that are judged without any noise: the search has to do with it.
    drawn = [max(worth(variation.draw(rng)) for _ in range(14 * 24)) for _ in range(8)]
    assert np.mean(found) > np.mean(drawn) + 5
    assert np.mean(found) > 0.8 * BEST


def test_playing_on_without_anything_new_finds_what_was_only_lucky():
    told = []
    for seed in range(32):
        evolution = searched(4.0, 10, seed)
        before = worth(evolution.best())
        for _ in range(4):
            confirm(evolution, 4.0)
        told.append((before, worth(evolution.best())))
    before, after = np.mean(told, axis=0)
    assert after > before + 0.3


def confirm(evolution, noise):
    """Play a generation without anything new."""
    rng = np.random.default_rng([8, evolution.config.seed, evolution.generations])
    jobs = evolution.ask(evolution.config.generation, new=False)
    evolution.tell(jobs, [worth(job.life) + LUCK[job.seed] + noise * rng.normal() for job in jobs])


def test_the_best_lives_play_on_and_nothing_is_played_twice():
    evolution = searched(4.0, 12)
    assert len(evolution.archive.results) == 12 * 24
    most = max(len(evolution.results(life)) for life in evolution.archive.lives)
    assert most >= 4
    asked = evolution.ask(20, new=False)
    assert len(asked) == 20
    known = {job.life for job in asked}
    assert evolution.best() in known
    assert known <= set(evolution.archive.lives)
    assert all(job.seed not in evolution.results(job.life) for job in asked)


def test_a_search_that_is_kept_as_plain_values_goes_on_as_if_nothing_had_been():
    whole, half = searched(4.0, 6), searched(4.0, 3)
    again = Evolution(half.config, Variation(FACTS, 30), half.seeds)
    again.load(json.loads(json.dumps(half.state())))
    go_on(again, 4.0, 3)
    assert again.state() == whole.state()
    assert again.best() == whole.best()
    assert searched(4.0, 6, seed=1).state() != whole.state()


def test_what_was_played_everywhere_is_not_played_again():
    evolution = Evolution(SearchConfig(generation=6), Variation(FACTS, 30), [0], [Life()])
    go_on(evolution, 1.0, 2)
    assert len(evolution.archive.results) == 12
    assert evolution.ask(6, new=False) == []


def test_hosts_and_lives_are_told_apart_as_by_hendersons_equations():
    rng = np.random.default_rng(0)
    lives, hosts = rng.integers(9, size=60), rng.integers(5, size=60)
    lives[:9], hosts[:5] = np.arange(9), np.arange(5)
    values = rng.normal(size=60) + 3 * hosts + 2 * lives
    ranking = rank(lives, hosts, values, [()] * 9, 1.7)
    x, z = np.eye(5)[hosts], np.eye(9)[lives]
    left = np.block([[x.T @ x, x.T @ z], [z.T @ x, z.T @ z + 1.7 * np.eye(9)]])
    solution = np.linalg.solve(left, np.concatenate([x.T @ values, z.T @ values]))
    np.testing.assert_allclose(ranking.worth, solution[5:], atol=1e-6)
    # The variance of the noise, from the covariance of the results, as in the mixed model's likelihood.
    inverse = np.linalg.inv(z @ z.T / 1.7 + np.eye(60))
    fitted = values - x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ values)
    variance = fitted @ inverse @ fitted / (60 - 5)
    np.testing.assert_allclose(ranking.error, np.sqrt(variance / (np.bincount(lives) + 1.7)), atol=1e-9)


def test_a_child_is_like_its_parents_until_it_has_shown_otherwise():
    # One host, whose luck is 0 by symmetry: parents worth 6 and -6 of four, and a child of the first.
    lives, values = np.array([0, 1, 2]), np.array([12.0, -12.0, 3.0])
    ranking = rank(lives, np.zeros(3, dtype=int), values - 0.0, [(), (), (0,)], 1.0)
    worth_, luck = ranking.worth, np.mean(values - ranking.worth)
    np.testing.assert_allclose(worth_[0], (12 - luck) / 2, atol=1e-6)
    np.testing.assert_allclose(worth_[2], (3 - luck + worth_[0]) / 2, atol=1e-6)


def plan(num_envs, **settings):
    """A search on the null engine."""
    config = SearchConfig(**{"steps": 2000, "generation": 12, **settings})
    return search_plan(lambda count: make(count), [500, 501, 502, 503], config, num_envs=num_envs)


def test_a_search_repeats_however_many_play_side_by_side():
    few, many, other = plan(5), plan(12), plan(12, seed=1)
    assert few == many
    assert few.history == many.history
    assert other.history != many.history


def test_a_search_keeps_to_its_steps_and_hosts_and_improves():
    found = plan(12)
    assert 1700 < found.steps <= 2000
    assert set(found.results) <= {500, 501, 502, 503}
    assert found.mean == pytest.approx(np.mean(list(found.results.values())))
    assert all(before["steps"] < after["steps"] for before, after in pairwise(found.history))
    players = Players(make(3))
    begun = [Job(life, 500) for life in start_lives(SearchConfig(), players.envs, 500)]
    (best,) = players.play([Job(found.life, 500)])
    assert best.total_reward > max(episode.total_reward for episode in players.play(begun))
    assert json.loads(json.dumps(found.as_dict()))["life"] == found.life.model_dump(mode="json")


def test_hardly_a_place_is_trained_for_nothing(monkeypatch):
    trained, step = [], EsperVectorEnv.step

    def noted(self, actions):
        trained.append(self.num_envs)
        return step(self, actions)

    monkeypatch.setattr(EsperVectorEnv, "step", noted)
    # 3 starts and 5 generations of 12, and steps for 2 episodes more, in which 10 places would be idle
    assert plan(12, steps=30 * (3 + 5 * 12 + 2)).steps == sum(trained) == 30 * (3 + 5 * 12)


def test_a_place_that_has_nothing_left_to_play_rests(monkeypatch):
    players, trained = Players(make(4)), []
    engine = type(players.envs._engine)
    epoch = engine.epoch

    def noted(self, playing):
        trained.append(int(playing.sum()))
        return epoch(self, playing)

    monkeypatch.setattr(engine, "epoch", noted)
    alone = players.play([Job(Life(), seed) for seed in (1, 2, 3, 4, 5)])
    assert sum(trained) == players.steps == 5 * 30
    assert players.play([Job(Life(), 5)]) == alone[4:]
    assert sum(trained) == players.steps + 3  # at rest after the first epoch


def test_an_objective_of_ones_own_is_what_is_searched_for():
    config = SearchConfig(steps=5000, generation=16, starts=("wait",), confirm=0.1)
    least = search_plan(lambda n: make(n), [3, 4], config, lambda episode: -episode.measured["param_ratio"])
    assert least.mean == -1.0  # nothing that is committed adds parameters: WAIT, or what is removed
    most = search_plan(lambda n: make(n), [3, 4], config, lambda episode: episode.measured["param_ratio"])
    largest = 1 + FACTS.module_params.max(axis=1).sum() / FACTS.host_params
    assert most.mean > 0.8 * largest


def test_lives_of_ones_own_come_first_and_are_checked():
    mine = Life.of([Planting(slot=0, blueprint="norm", epoch=9)])
    config = SearchConfig(steps=1000, generation=6, starts=())
    said = []
    search_plan(lambda n: make(n), [3], config, lives=[mine], say=said.append)
    assert said[0].startswith("generation 1, 180 steps, best so far ")
    wrong = mine.model_copy(update={"plantings": (Planting(slot=0, blueprint="convy"),)})
    with pytest.raises(ValueError, match="convy"):
        search_plan(lambda n: make(n), [3], config, lives=[wrong])


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_that_are_none_or_twice_the_same_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds"):
        Evolution(SearchConfig(), Variation(FACTS, 30), seeds)
