"""The rule-based agent does what its rules say, when they say it, and nothing illegal."""

import dataclasses

import numpy as np
import pytest
from made_up import everywhere, make, networks

from esper_agents.baselines import HeuristicAgent, HeuristicConfig, baseline
from esper_agents.baselines.reading import Reader
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.config import build
from esper_agents.evaluate import evaluate
from esper_env import Head, Op
from esper_env.engine.null import plausible


def life(env, steps, **thresholds):
    """[(epoch, op name, slot, blueprint name), ...] of environment 0 without its waits."""
    agent = HeuristicAgent(HeuristicConfig(**thresholds), env)
    obs, info = env.reset(seed=0)
    memory, played = agent.begin([0] * env.num_envs), []
    for epoch in range(steps):
        actions, memory = agent.act(obs, info, memory)
        action = actions[0]
        if action[Head.OP] != Op.WAIT:
            blueprint = env.facts.blueprints[action[Head.BLUEPRINT]]
            played.append((epoch, Op(action[Head.OP]).name, int(action[Head.SLOT]), blueprint))
        obs, _, _, _, info = env.step(actions)
        assert info["action_valid"].all()
    return played


def chancy(slots, epochs):
    """Modules of any worth, some of which can't be built, don't learn, or break the network."""
    stats, env = plausible(slots, epochs), np.arange(len(epochs))
    key = 12.9898 * slots.planting + 78.233 * slots.blueprint + 37.719 * np.arange(slots.stage.shape[1])
    luck = np.sin(key + 4.1414 * env[:, None])
    wave = 0.02 * np.sin(2.0 * epochs + env)
    stats.val_accuracy = np.clip(0.4 + wave + (0.08 * luck * slots.alpha).sum(axis=1), 0.05, 0.95)
    stats.val_loss = -np.log(stats.val_accuracy)
    stats.probe_passed &= luck < 0.9
    stats.exploding_share = np.where(luck < -0.9, 1.0, stats.exploding_share)
    stats.val_loss[((luck > 0.97) & (slots.alpha > 0.9)).any(axis=1)] = np.nan
    return stats


@pytest.mark.parametrize(
    "settings",
    [{}, {"gates": "strict"}, {"param_budget": 2.0, "max_modules": 2}, {"auto_advance": ["G1", "G3"]}],
    ids=str,
)
def test_ten_thousand_steps_without_an_illegal_action(settings):
    env = make(64, chancy, horizon=40, strict_actions=True, **settings)
    agent = HeuristicAgent(HeuristicConfig(), env)
    obs, info = env.reset(seed=0)
    memory, ops = agent.begin(range(64)), np.zeros(len(Op), int)
    for _ in range(164):  # four episodes of 40 steps and the reset after each: 10,240 steps that count
        actions, memory = agent.act(obs, info, memory)
        ops += np.bincount(actions[:, Head.OP], minlength=len(Op))
        obs, _, _, _, info = env.step(actions)
    assert ops.sum() >= 10_000
    assert ops[Op.SET_ALPHA_TARGET] == 0
    assert (ops[[Op.GERMINATE, Op.PRUNE, Op.FOSSILIZE, Op.ADVANCE]] > 100).all(), ops


def test_what_helps_is_fossilized_as_soon_as_it_may_be():
    # Planted in epoch 4, as soon as there is a history; alpha is 1 in the observation of epoch 12.
    played = life(make(1, networks(everywhere(5.0)), slots=1), 29)
    assert played == [
        (4, "GERMINATE", 0, "conv_heavy"),
        (5, "ADVANCE", 0, "noop"),
        (9, "ADVANCE", 0, "noop"),
        (12, "ADVANCE", 0, "noop"),
        (13, "FOSSILIZE", 0, "noop"),
    ]


@pytest.mark.parametrize(("harm_epochs", "pruned"), [(1, 12), (3, 12), (4, 13), (5, 14)])
def test_what_harms_is_pruned_after_so_many_epochs(harm_epochs, pruned):
    # Harm is measured from epoch 10 on; a module can be pruned again once alpha rests, in epoch 12.
    played = life(make(1, networks(everywhere(-5.0)), slots=1), 16, harm_epochs=harm_epochs)
    assert [epoch for epoch, op, *_ in played if op == "PRUNE"] == [pruned]


@pytest.mark.parametrize(("points", "op", "epoch"), [(0.4, "PRUNE", 21), (0.6, "FOSSILIZE", 13)])
def test_what_hardly_helps_is_pruned_when_patience_ends(points, op, epoch):
    # HOLDING from epoch 13 on, patience 8.
    assert (epoch, op, 0, "noop") in life(make(1, networks(everywhere(points)), slots=1), 29)


def test_a_module_that_never_learns_is_pruned_when_patience_ends():
    def dead(slots, epochs):
        stats = networks(everywhere(0.0))(slots, epochs)
        stats.vanishing_share = np.where(np.isnan(stats.vanishing_share), np.nan, 1.0)
        return stats

    # TRAINING from epoch 6 on; health 0.5 never passes G2.
    assert (14, "PRUNE", 0, "noop") in life(make(1, dead, slots=1), 29)


def test_nothing_is_planted_while_the_loss_falls_fast():
    # Down by a tenth an epoch until epoch 8: in three epochs 27, 19, 10 and then 0 percent in epoch 11.
    falling = networks(everywhere(5.0), loss=lambda epochs: 2 * 0.9 ** np.minimum(epochs, 8))
    assert life(make(1, falling, slots=1), 29)[0][:2] == (11, "GERMINATE")
    assert life(make(1, falling, slots=1), 29, stable_fall=0.034)[0][:2] == (10, "GERMINATE")


def test_nothing_is_planted_while_quality_rises():
    rising = networks(
        everywhere(5.0),
        accuracy=lambda epochs: 0.2 + 0.015 * np.minimum(epochs, 10),
        loss=lambda epochs: np.full(len(epochs), 1.5),
    )
    # 3 points in two epochs until epoch 10, 1.5 in epoch 11.
    assert life(make(1, rising, slots=1), 29)[0][:2] == (11, "GERMINATE")
    assert life(make(1, rising, slots=1), 29, plateau_gain=3.1)[0][:2] == (4, "GERMINATE")


def test_nothing_is_planted_too_late():
    late = networks(everywhere(5.0), loss=lambda epochs: 2 * 0.9 ** np.minimum(epochs, 18.0))
    assert life(make(1, late, slots=1), 29) == []
    assert life(make(1, late, slots=1), 29, least_left=9)[0][:2] == (21, "GERMINATE")


@pytest.mark.parametrize("spacing", [1, 4, 7])
def test_plantings_are_apart(spacing):
    played = life(make(1, networks(everywhere(0.0)), horizon=60), 40, spacing=spacing, patience=40)
    epochs = [epoch for epoch, op, *_ in played if op == "GERMINATE"]
    assert len(epochs) == 3
    # A step later where the step was needed to advance another module.
    gaps = np.diff(epochs)
    assert ((gaps >= spacing) & (gaps <= spacing + 1)).all()
    assert {slot for _, op, slot, _ in played if op == "GERMINATE"} == {0, 1, 2}


def by_blueprint(env, points):
    names = env.facts.blueprints
    table = np.array([points.get(name, 0.0) for name in names])
    return lambda slots: table[slots.blueprint]


def test_a_blueprint_that_failed_is_not_the_next_to_be_tried():
    env = make(1, slots=1, horizon=60)
    env._engine.script = networks(by_blueprint(env, {"conv_heavy": -5.0, "conv_light": 5.0}))
    played = life(env, 40)
    # Pruned in epoch 12; the slot is free again in epoch 20.
    assert [p[0::3] for p in played if p[1] == "GERMINATE"] == [(4, "conv_heavy"), (20, "conv_light")]


@pytest.mark.parametrize(("forgiveness", "again"), [(0.9, 20), (0.95, 27), (1.0, None)])
def test_a_charge_decays(forgiveness, again):
    # Charged with 1 in epoch 13: 0.9^7 = 0.48 is below 0.5 in epoch 20, 0.95^14 = 0.49 in epoch 27.
    env = make(1, networks(everywhere(-5.0)), slots=1, horizon=60)
    played = life(env, 40, forgiveness=forgiveness, preference=("conv_heavy",), harm_epochs=1)
    epochs = [epoch for epoch, op, *_ in played if op == "GERMINATE"]
    assert epochs[:2] == [4, *([again] if again else [])]


def test_a_rollback_is_charged_as_well():
    def breaking(slots, epochs):
        stats = networks(everywhere(0.0))(slots, epochs)
        stats.val_loss = np.where((slots.alpha > 0).any(axis=1), np.nan, stats.val_loss)
        return stats

    played = life(make(1, breaking, slots=1, horizon=60), 30)
    planted = [blueprint for _, op, _, blueprint in played if op == "GERMINATE"]
    assert planted[:2] == ["conv_heavy", "conv_light"]
    assert not any(op == "PRUNE" for _, op, *_ in played)


def test_a_play_does_not_depend_on_what_is_played_beside_it_or_was_played_before():
    agents = [HeuristicAgent(HeuristicConfig(), make()) for _ in range(5)]
    together, single = make(5, chancy), make(5, chancy)
    whole = evaluate(agents[0], together, range(10))
    apart = evaluate(SideBySide(agents), single, range(10))
    assert whole.episodes == apart.episodes
    assert len({tuple(episode.ops.values()) for episode in whole.episodes}) > 1


def test_the_memory_it_was_given_is_left_as_it_was():
    env = make(8, chancy)
    agent = HeuristicAgent(HeuristicConfig(), env)
    obs, info = env.reset(seed=1)
    memory = agent.begin(range(8))
    for _ in range(25):
        before = {name: value.copy() for name, value in dataclasses.asdict(memory).items()}
        actions, after = agent.act(obs, info, memory)
        again, _ = agent.act(obs, info, memory)
        np.testing.assert_array_equal(actions, again)
        for name, value in before.items():
            np.testing.assert_array_equal(value, getattr(memory, name))
        memory = after
        obs, _, _, _, info = env.step(actions)
    assert not np.array_equal(memory.grown, np.zeros_like(memory.grown))


def test_the_observation_is_read_in_the_units_of_the_game():
    env = make(16, chancy, horizon=40)
    reader, agent = Reader(env), HeuristicAgent(HeuristicConfig(), env)
    obs, info = env.reset(seed=2)
    memory, measured = agent.begin(range(16)), 0
    for step in range(39):
        state, slots, seen = env._state, env._state.slots, reader.read(obs)
        assert (seen.begun == (step == 0)).all()
        np.testing.assert_array_equal(seen.epoch, state.epoch)
        np.testing.assert_allclose(seen.losses, state.loss_history, rtol=1e-5)
        np.testing.assert_allclose(seen.qualities, 100 * state.quality_history, rtol=1e-5)
        np.testing.assert_array_equal(seen.stage, slots.stage)
        np.testing.assert_array_equal(seen.epochs_in_stage, np.where(slots.stage, slots.epochs_in_stage, 0))
        np.testing.assert_array_equal(seen.blueprint, slots.blueprint)
        np.testing.assert_allclose(seen.contribution, slots.contribution, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(
            seen.fresh, ~np.isnan(slots.contribution) & (slots.contribution_age == 0)
        )
        measured += int(seen.fresh.sum())
        actions, memory = agent.act(obs, info, memory)
        obs, _, _, _, info = env.step(actions)
    assert measured > 100


def test_on_real_networks_it_commits_what_it_grows():
    env = make(4, engine="auto", device="cpu")
    episodes = evaluate(baseline("heuristic", env), env, range(400, 404)).episodes
    assert sum(episode.fossilized for episode in episodes) >= 4
    assert [episode.invalid for episode in episodes] == [0] * 4


def test_thresholds_are_settings_of_a_run():
    config = build({"algo": "heuristic", "heuristic": {"spacing": 6, "preference": ["norm"]}})
    assert not config.learns
    assert (config.heuristic.spacing, config.heuristic.preference) == (6, ("norm",))
    with pytest.raises(ValueError, match=r"heuristic\.stable_epochs=5 is not allowed"):
        build({"heuristic": {"stable_epochs": 5}})
    with pytest.raises(ValueError, match="convy"):
        baseline("heuristic", make(), heuristic=HeuristicConfig(preference=("norm", "convy")))


def test_a_preference_is_all_that_is_planted():
    played = life(make(1, networks(everywhere(1.0)), horizon=60), 40, preference=("attention",))
    assert {blueprint for _, op, _, blueprint in played if op == "GERMINATE"} == {"attention"}
