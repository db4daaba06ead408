"""A life is led as it is written, legally, and read back from what was done."""

import numpy as np
import pytest
from made_up import make
from test_heuristic import chancy

from esper_agents.baselines import ScheduleAgent, ScheduleConfig
from esper_agents.evaluate import evaluate
from esper_agents.search import Life, LifeAgent, Planting, read_life
from esper_agents.search.play import Job, Players, harvested_quality, total_reward
from esper_agents.search.vary import Variation
from esper_env import Head, Op, encode
from esper_env.engine.null import plausible

FOUND = Life.of(
    [
        Planting(slot=0, blueprint="conv_heavy", epoch=0),
        Planting(slot=1, blueprint="norm", epoch=2),
        Planting(slot=2, blueprint="norm", epoch=3),
    ]
)


def led(agent, env, seed=0):
    """Actions (step, 8) of environment 0 in one episode, and whether each was legal."""
    steps = []
    evaluate(agent, env, [seed] * env.num_envs, steps.append)
    over = np.cumsum([step.ended[0] for step in steps]) - [step.ended[0] for step in steps] > 0
    valid = np.array([step.info["action_valid"][0] for step in steps])
    return np.array([step.actions[0] for step in steps])[~over], valid[~over]


def ops(actions):
    """[(step, op name, slot), ...] without waits."""
    rows = ((step, Op(row[Head.OP]), int(row[Head.SLOT])) for step, row in enumerate(actions))
    return [(step, op.name, slot) for step, op, slot in rows if op != Op.WAIT]


def drawn(env, count, seed=0, changes=4):
    """Lives, each drawn and changed a few times, so that all fields vary."""
    variation, rng = Variation(env.facts, env.config.horizon), np.random.default_rng(seed)
    lives = [variation.draw(rng) for _ in range(count)]
    for _ in range(changes):
        lives = [variation.child([life, other], rng) for life, other in zip(lives, lives[::-1], strict=True)]
    return lives


def test_a_life_is_led_step_by_step():
    env = make(1, strict_actions=True)
    actions, valid = led(LifeAgent(FOUND, env), env)
    assert valid.all()
    # Three epochs in TRAINING beyond that of entering it, ramps of three; what is longest overdue goes first.
    assert ops(actions) == [
        *((0, "GERMINATE", 0), (1, "ADVANCE", 0), (2, "GERMINATE", 1), (3, "GERMINATE", 2)),
        *((4, "ADVANCE", 1), (5, "ADVANCE", 2), (6, "ADVANCE", 0), (8, "ADVANCE", 1)),
        *((9, "ADVANCE", 0), (10, "ADVANCE", 2), (11, "ADVANCE", 1), (12, "FOSSILIZE", 0)),
        *((13, "ADVANCE", 2), (14, "FOSSILIZE", 1), (15, "FOSSILIZE", 2)),
    ]


def test_one_module_that_waits_everywhere():
    env = make(1, strict_actions=True)
    planting = Planting(
        slot=1, blueprint="conv_light", epoch=2, style="GATED", tempo="STANDARD", alpha_target="HALF",
        train=5, rest=2, speed="FAST", curve="COSINE", commit=3,
    )  # fmt: skip
    actions, _ = led(LifeAgent(Life.of([planting]), env), env)
    assert ops(actions) == [
        (2, "GERMINATE", 1),
        (3, "ADVANCE", 1),
        (9, "ADVANCE", 1),  # five epochs in TRAINING are shown by the observation after step 8
        (16, "SET_ALPHA_TARGET", 1),  # a ramp of five, and a rest of two
        (19, "ADVANCE", 1),  # a ramp of three
        (23, "FOSSILIZE", 1),
    ]
    expected = encode(
        Op.GERMINATE,
        slot=1,
        blueprint=env.facts.blueprints.index("conv_light"),
        style=3,
        tempo=1,
        alpha_target=0,
    )
    np.testing.assert_array_equal(actions[2], expected)
    raised = encode(Op.SET_ALPHA_TARGET, slot=1, alpha_target=2, alpha_speed=1, alpha_curve=1)
    np.testing.assert_array_equal(actions[16], raised)


def test_a_module_makes_room_for_another():
    env = make(1, strict_actions=True)
    first = Planting(slot=0, blueprint="norm", epoch=0, commit=None, remove=4)
    life = Life.of([first, Planting(slot=0, blueprint="conv_heavy", epoch=1)])
    actions, _ = led(LifeAgent(life, env), env)
    # Pruned as the action of step 4, the slot is free again as the action of step 12.
    assert ops(actions)[:4] == [(0, "GERMINATE", 0), (1, "ADVANCE", 0), (4, "PRUNE", 0), (12, "GERMINATE", 0)]
    with pytest.raises(ValueError, match="slot 0 is planted again"):
        Life(plantings=(first.model_copy(update={"remove": None}), first))


@pytest.mark.parametrize(
    "settings",
    [{}, {"gates": "strict"}, {"param_budget": 1.5, "compute_budget": 1.0}, {"auto_advance": ["G1", "G3"]}],
    ids=str,
)
def test_no_life_ever_plays_what_is_not_legal(settings):
    env = make(32, chancy, strict_actions=True, **settings)
    jobs = [Job(life, seed) for seed, life in enumerate(drawn(env, 100))]
    episodes = Players(env).play(jobs)
    assert sum(episode.invalid for episode in episodes) == 0
    assert [episode.seed for episode in episodes] == list(range(100))
    assert sum(episode.fossilized for episode in episodes) > 10
    assert sum(episode.pruned for episode in episodes) > 5


def test_what_one_module_did_is_read_back():
    env = make(1)
    for life in drawn(env, 60):
        plantings = [each for each in life.plantings if each.remove is None and each.epoch < 5][:1]
        alone = Life.of(plantings)
        actions, valid = led(LifeAgent(alone, env), env)
        assert read_life(actions, valid, env.facts, (3, 5, 8)) == alone, str(alone)


def test_a_schedule_is_read_and_played_again():
    env = make(1)
    config = ScheduleConfig(blueprint="norm", slots=(2, 0), start=1, spacing=2, alpha_target="MOST", rest=1)
    actions, valid = led(ScheduleAgent.of(config, env), env)
    life = read_life(actions, valid, env.facts, (3, 5, 8))
    assert [(each.slot, each.epoch, each.blueprint) for each in life.plantings] == [
        (2, 1, "norm"),
        (0, 3, "norm"),
    ]
    again, _ = led(LifeAgent(life, env), env)
    np.testing.assert_array_equal(again, actions)


def test_what_was_not_legal_was_not_done():
    env = make(1)
    norm = encode(Op.GERMINATE, slot=1, blueprint=env.facts.blueprints.index("norm"), alpha_target=2)
    actions = np.stack([encode(Op.PRUNE, slot=0), norm, norm])
    valid = np.array([False, True, False])
    assert read_life(actions, valid, env.facts, (3, 5, 8)).plantings == (
        Planting(slot=1, blueprint="norm", epoch=1, commit=None),
    )


def fragile(slots, epochs):
    """Networks that some modules break; what happens in one does not depend on the others."""
    stats = plausible(slots, epochs)
    stats.val_accuracy = 0.3 + 0.005 * epochs + (0.03 * slots.alpha).sum(axis=1)
    stats.val_loss = -np.log(stats.val_accuracy)
    stats.val_loss[((slots.blueprint % 2 == 1) & (slots.alpha > 0.9)).any(axis=1)] = np.nan
    return stats


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_queue_of_episodes_gives_what_each_gives_alone(mode):
    settings = {"script": fragile, "overrides": {"governor.max_panics": 1}}  # so that they end one by one
    jobs = [Job(life, 100 + number % 4) for number, life in enumerate(drawn(make(1), 11))]
    players = Players(make(3, autoreset_mode=mode, **settings))
    queued = players.play(jobs)
    assert len({episode.length for episode in queued}) > 3
    assert players.steps == sum(episode.length for episode in queued)
    with pytest.raises(ValueError, match="not 'Disabled'"):
        Players(make(1, autoreset_mode="Disabled"))
    alone = make(1, **settings)
    for job, episode in zip(jobs, queued, strict=True):
        assert evaluate(LifeAgent(job.life, alone), alone, [job.seed]).episodes[0] == episode


def test_objectives_are_the_sum_of_rewards_and_what_is_harvested():
    env = make(1)
    episode = evaluate(LifeAgent(FOUND, env), env, [3]).episodes[0]
    assert total_reward(episode) == episode.total_reward
    assert harvested_quality(env.facts)(episode) == 100 * episode.measured["harvest_accuracy"]
    text = {**episode.measured, "harvest_accuracy": None, "harvest_loss": 1.0}
    spoken = type(episode)(**{**vars(episode), "measured": text})
    assert harvested_quality(env.facts)(spoken) == pytest.approx(100 * (1 - 1 / np.log(10)))
    broken = type(episode)(**{**vars(episode), "measured": {**text, "harvest_loss": None}})
    assert harvested_quality(env.facts)(broken) == 10.0
    cut = make(1, max_episode_steps=5)
    episode = evaluate(LifeAgent(FOUND, cut), cut, [3]).episodes[0]
    with pytest.raises(ValueError, match="seed 3 was cut off"):
        harvested_quality(cut.facts)(episode)


@pytest.mark.parametrize(
    ("planting", "named"),
    [
        ({"slot": 3, "blueprint": "norm"}, r"plantings\.0\.slot=3: there are 0 to 2"),
        ({"slot": 0, "blueprint": "mlp"}, r"plantings\.0\.blueprint='mlp' does not fit slot 0"),
        ({"slot": 0, "blueprint": "convy"}, "convy"),
    ],
)
def test_a_life_that_does_not_fit_is_refused_by_name(planting, named):
    with pytest.raises(ValueError, match=named):
        LifeAgent(Life(plantings=(Planting(**planting),)), make(1))


def test_draws_and_changes_reach_every_field_and_stay_within_the_game():
    env = make(1)
    lives = drawn(env, 500, changes=8)
    plantings = [each for life in lives for each in life.plantings]
    seen = {name: {getattr(each, name) for each in plantings} for name in Planting.model_fields}
    assert seen["slot"] == {0, 1, 2}
    fitting = env.facts.fits.any(axis=0)
    assert seen["blueprint"] == {n for n, fits in zip(env.facts.blueprints, fitting, strict=True) if fits}
    assert (len(seen["style"]), len(seen["tempo"]), len(seen["alpha_target"])) == (4, 3, 3)
    assert (len(seen["speed"]), len(seen["curve"])) == (4, 5)
    assert min(seen["epoch"]) == 0
    assert max(seen["epoch"]) <= 20
    assert {3, 4} <= seen["train"]
    assert min(seen["train"]) == 3
    assert {None, 0, 1} <= seen["commit"]
    assert len(seen["remove"]) > 5
    for life in lives:
        life.check(env.facts)
        assert Life.model_validate_json(life.model_dump_json()) == life
        assert Life.of(life.plantings) == life
