"""A beam gives what its lives give when they are led from the beginning, and finds what is best."""

import numpy as np
import pytest
from made_up import make, networks

from esper_agents.search import Job, Life, Players, SearchConfig, search_plan, total_reward
from esper_agents.search.beam import Beam
from esper_agents.search.vary import Variation

TINY = {
    "engine.epoch_size": 64,
    "engine.counterfactual_size": 64,
    "task.train_size": 256,
    "task.val_size": 64,
    "task.test_size": 64,
}


def beam(envs, seeds, **settings):
    """A beam search and its players."""
    players = Players(envs)
    variation = Variation(envs.facts, envs.config.horizon)
    config = SearchConfig(method="beam", **settings)
    return Beam(config, variation, players, seeds, total_reward), players


@pytest.mark.parametrize("engine", ["auto", "null"])
def test_a_branch_is_worth_to_the_last_bit_what_its_life_is_worth_from_the_beginning(engine):
    envs = make(4, engine=engine, overrides={**TINY, "horizon": 16})
    search, players = beam(envs, [7, 8], every=3, width=2, branches=3)
    heard = []
    kept = search.search(100_000, lambda branches: heard.extend(branches))
    assert max(len(branch.life.plantings) for branch in kept) > 0
    assert len({branch.life for branch in heard}) > 3
    for branch in {branch.life: branch for branch in heard}.values():
        alone = [players.play([Job(branch.life, seed)])[0].total_reward for seed in (7, 8)]
        assert tuple(alone) == branch.values, str(branch.life)


def test_it_finds_the_best_blueprint_of_every_slot():
    points = np.random.default_rng(0).uniform(0, 10, size=make(1).facts.fits.shape)

    def prizes(slots):
        return np.take_along_axis(
            points[None].repeat(len(slots.blueprint), 0), slots.blueprint[..., None], 2
        )[..., 0] * (slots.blueprint > 0)

    envs = make(8, networks(prizes), reward={"quality": 100.0, "harvest": 100.0})
    search, players = beam(envs, [5], every=2, width=4, branches=60)
    best = search.search(100_000)[0]
    fits = np.where(envs.facts.fits, points, 0)
    expected = {slot: envs.facts.blueprints[int(row.argmax())] for slot, row in enumerate(fits)}
    assert {each.slot: each.blueprint for each in best.life.plantings if each.commit is not None} == expected
    assert best.values[0] == pytest.approx(fits.max(axis=1).sum() + 100 * (0.4 - 0.1), abs=1e-6)
    assert players.steps < 100_000


def test_what_is_spent_is_bounded_and_less_than_playing_all_from_the_beginning():
    envs = make(4)
    search, players = beam(envs, [1, 2], every=4, width=2, branches=4)
    counts = []
    search.search(1500, lambda kept: counts.append(players.steps))
    assert players.steps <= 1500 + 2 * 30
    assert counts == sorted(counts)
    assert counts[-1] > 1000


def test_a_plan_by_beam_repeats_and_is_confirmed_on_hosts_that_did_not_choose_it():
    def plan(num_envs):
        config = SearchConfig(method="beam", steps=3000, hosts=2, branches=3, generation=12)
        return search_plan(lambda count: make(count), [500, 501, 502, 503], config, num_envs=num_envs)

    few, many = plan(3), plan(12)
    assert few == many
    assert few.steps <= 3000
    assert set(few.results) > {500, 501}
    assert few.life != Life()
