"""Evaluation plays exactly the episodes it was given, and its figures can be had by hand."""

import json

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from esper_agents.baselines import baseline
from esper_agents.episodes import MEASURED
from esper_agents.evaluate import evaluate, fitting
from esper_agents.statistics import estimate
from esper_agents.table import table


def make(num_envs=3, **settings):
    return gym.make_vec("EsperMicro-v0", num_envs=num_envs, **{"engine": "null", "horizon": 12, **settings})


def test_an_episodes_record_equals_sums_taken_by_hand():
    env = make(num_envs=1)
    agent = baseline("random", env)
    episode = evaluate(agent, env, [4]).episodes[0]

    single = gym.make("EsperMicro-v0", engine="null", horizon=12)
    obs, info = single.reset(seed=4)
    memory, total, ops, terms = agent.begin([4]), 0.0, [], {}
    terminated = False
    while not terminated:
        batch = {key: np.asarray(info[key])[None] for key in ("op_slot_mask", "blueprint_slot_mask")}
        actions, memory = agent.act(obs[None], batch, memory)
        obs, reward, terminated, _, info = single.step(actions[0])
        total += reward
        ops.append(int(actions[0, -1]))
        terms = {name: terms.get(name, 0.0) + value for name, value in info["reward_terms"].items()}
    assert episode.total_reward == pytest.approx(total, abs=1e-12)
    assert list(episode.ops.values()) == np.bincount(ops, minlength=6).tolist()
    assert episode.reward_terms == pytest.approx(terms, abs=1e-12)
    assert sum(episode.reward_terms.values()) == pytest.approx(total, abs=1e-9)
    assert episode.measured == {key: info[key] for key in MEASURED}
    assert episode.length == 12


def test_pruned_and_fossilized_modules_are_counted_where_they_happen():
    env = make(num_envs=1, horizon=30)
    random, schedule = (
        evaluate(baseline(name, env), env, [0]).episodes[0] for name in ("random", "schedule")
    )
    assert schedule.fossilized == 3
    assert schedule.pruned == 0
    # With alpha at 0 before BLENDING, most prunes act at once; none acts without having been asked for.
    assert 0 < random.pruned <= random.ops["PRUNE"]


def test_agents_are_compared_on_the_same_seeds_in_the_same_order():
    env = make()
    seeds = [9, 2, 5, 7]
    waited, drawn = (evaluate(baseline(name, env), env, seeds) for name in ("wait", "random"))
    assert [e.seed for e in waited.episodes] == [e.seed for e in drawn.episodes] == seeds
    gaps = [a.total_reward - b.total_reward for a, b in zip(waited.episodes, drawn.episodes, strict=True)]
    lead = waited.against(drawn)
    low, high = stats.t.interval(0.95, 3, np.mean(gaps), stats.sem(gaps))
    assert (lead.mean, lead.low, lead.high) == pytest.approx((np.mean(gaps), low, high), rel=2e-3)
    with pytest.raises(ValueError, match="not comparable"):
        waited.against(evaluate(baseline("wait", env), env, [9, 2, 5, 8]))


def test_how_many_play_side_by_side_changes_no_result():
    few, many = (evaluate(baseline("random", env), env, range(5)) for env in (make(2), make(5)))
    assert few.episodes == many.episodes


def test_an_episode_that_ends_early_is_counted_once():
    env, single = (make(num_envs=count, compute_budget=0.5) for count in (4, 1))
    waited, drawn = (evaluate(baseline(name, env), env, range(6)).episodes for name in ("wait", "random"))
    assert [e.length for e in waited] == [6] * 6
    lengths = [e.length for e in drawn]
    assert min(lengths) < max(lengths) <= 6, "modules use up the budget"
    alone = [evaluate(baseline("random", single), single, [seed]).episodes[0] for seed in range(6)]
    assert lengths == [e.length for e in alone]


def test_what_was_not_measured_is_missing_and_not_zero():
    env = make(max_episode_steps=3)
    evaluation = evaluate(baseline("wait", env), env, [0, 1, 2])
    assert evaluation.episodes[0].measured["test_accuracy"] is None
    assert "test_accuracy" not in evaluation.summary()
    text = json.dumps(evaluation.as_dict(), allow_nan=False)
    assert json.loads(text)["episodes"][0]["measured"]["val_accuracy"] > 0
    assert table([evaluation])[1].split()[-1] == "0.0%"


def test_a_table_shows_mean_and_interquartile_mean_with_their_intervals():
    evaluation = evaluate(baseline("random", make()), make(), range(7))
    found = estimate(evaluation.values("total_reward"))
    heading, row, *_ = table([evaluation, evaluation])
    shown = f"{found.mean:.2f} {found.low:.2f} to {found.high:.2f} "
    shown += f"{found.iqm:.2f} {found.iqm_low:.2f} to {found.iqm_high:.2f}"
    assert " ".join(row.split()).startswith(f"random {shown}")
    assert heading.split()[:7] == ["agent", "return", "95%", "interval", "IQM", "95%", "interval"]
    assert table([evaluate(baseline("wait", make()), make(), [0])])[1].split()[2] == "-"


def test_a_picture_of_the_first_episode_comes_from_an_environment_that_draws():
    env = make(num_envs=2, render_mode="rgb_array")
    picture = evaluate(baseline("schedule", env), env, [0, 1, 2]).picture
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.std() > 0
    assert evaluate(baseline("wait", make()), make(), [0]).picture is None


@pytest.mark.parametrize(("max_envs", "episodes", "expected"), [(8, 8, 8), (8, 9, 5), (8, 3, 3), (1, 5, 1)])
def test_places_are_not_left_idle(max_envs, episodes, expected):
    assert fitting(max_envs, episodes) == expected


def test_evaluation_refuses_what_it_cannot_see_the_end_of():
    with pytest.raises(ValueError, match="SameStep"):
        evaluate(baseline("wait", make()), make(autoreset_mode="SameStep"), [0])
    with pytest.raises(ValueError, match="seeds"):
        evaluate(baseline("wait", make()), make(), [])
