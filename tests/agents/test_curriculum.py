"""A run over many instances plays them in turn, goes on exactly, and is evaluated on every one."""

import io
import json

import pytest
from test_start import weights
from test_train import events

from esper_agents import checkpoint
from esper_agents.compare import build as build_comparison
from esper_agents.compare import compare
from esper_agents.config import build
from esper_agents.curriculum import Curriculum
from esper_agents.dry_run import dry_run
from esper_agents.train import train
from esper_env import EsperVectorEnv

RENTS = (0.0, 1.0, 2.0)
SMALL = {
    "env": "EsperMicro-v0",
    "num_envs": 2,
    "episode_length": 6,
    "memory_size": 8,
    "hidden_size": 8,
    "minibatches": 1,
    "eval_episodes": 2,
    "compare": ["random"],
    "overrides": {"engine.name": "null", "reward.compute_rent": 0},
    "instances": [{"overrides": {"reward.rent": rent}} for rent in RENTS],
    "rounds": 4,
}
LEARNERS = ["esper_ppo", "recurrent_ppo", "maskable_ppo", "maskable_recurrent_ppo", "ppo"]


def run(folder, resume=None, **changes):
    return train(build({**SMALL, "logdir": str(folder), **changes}), resume, io.StringIO())


@pytest.mark.parametrize("algo", [*LEARNERS, "search"])
def test_every_round_plays_the_instance_whose_turn_it_is(tmp_path, algo, monkeypatch):
    played, step = [], EsperVectorEnv.step

    def noted(self, actions):
        if self.autoreset_mode.value == "SameStep":
            played.append(self.config.reward.rent)
        return step(self, actions)

    monkeypatch.setattr(EsperVectorEnv, "step", noted)
    summary = run(tmp_path, algo=algo, search={"starts": []})
    assert played == [rent for rent in (*RENTS, RENTS[0]) for _ in range(6)]
    assert summary.steps == 4 * 2 * 6
    steps = [event.step for event in events(summary.folder).Scalars("charts/episodic_return")]
    assert steps == [12, 24, 36, 48]


@pytest.mark.parametrize("algo", LEARNERS)
def test_a_run_that_was_stopped_has_the_weights_of_one_that_was_not(tmp_path, algo):
    whole = weights(run(tmp_path / "whole", algo=algo, rounds=5).folder)
    first = run(tmp_path / "parts", algo=algo, rounds=2)
    resumed = weights(run(tmp_path / "parts", first.folder, algo=algo, rounds=5).folder)
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert tensor.equal(resumed[name]), name


def test_an_update_learns_from_a_round_in_each_instance(tmp_path):
    """Curves of updates every third round; stopped between, a run plays what waits again, to the same end."""
    changes = {"algo": "esper_ppo", "rounds_per_update": 3}
    first = run(tmp_path / "parts", rounds=2, **changes)  # rounded up to a whole update
    assert first.steps == 3 * 2 * 6
    assert [event.step for event in events(first.folder).Scalars("train/loss")] == [36]
    whole = weights(run(tmp_path / "whole", rounds=6, **changes).folder)
    path, kept = first.folder / checkpoint.CHECKPOINT, []
    write = checkpoint.write_checkpoint

    def noted(to, model, record):
        write(to, model, record)
        kept.append((record["state"]["rounds"], to.read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", noted)
        resumed = weights(run(tmp_path / "parts", first.folder, rounds=6, **changes).folder)
    assert [rounds for rounds, _ in kept] == [3, 3, 3, 6]
    path.write_bytes(kept[2][1])  # when two rounds waited
    again = weights(run(tmp_path / "parts", first.folder, rounds=6, **changes).folder)
    for name, tensor in whole.items():
        assert tensor.equal(resumed[name]), name
        assert tensor.equal(again[name]), name


def test_a_search_that_was_stopped_finds_what_one_finds_that_was_not(tmp_path):
    from test_search_trainee import saved

    whole = run(tmp_path / "whole", algo="search", rounds=5)
    first = run(tmp_path / "parts", algo="search", rounds=2)
    assert saved(run(tmp_path / "parts", first.folder, algo="search", rounds=5).folder) == saved(whole.folder)
    hosts = {host for _, host, _ in saved(whole.folder)[1]["results"]}
    assert {host % 3 for host in hosts} == {0, 1, 2}


def test_what_each_instance_is_worth_changes_what_is_learned(tmp_path):
    alone = {name: value for name, value in SMALL.items() if name != "instances"}
    own = build({**alone, "algo": "esper_ppo", "logdir": str(tmp_path / "alone")})
    plain = weights(train(own, None, io.StringIO()).folder)
    one = weights(run(tmp_path / "one", algo="esper_ppo", instances=[{}]).folder)
    three = weights(run(tmp_path / "three", algo="esper_ppo").folder)
    assert all(tensor.equal(one[name]) for name, tensor in plain.items())
    assert any(not tensor.equal(three[name]) for name, tensor in plain.items())


def test_evaluation_plays_every_instance_with_the_same_seeds(tmp_path):
    stream = io.StringIO()
    summary = train(build({**SMALL, "algo": "random", "logdir": str(tmp_path)}), None, stream)
    values = json.loads((summary.folder / "evaluation.json").read_text())
    assert [[each["agent"] for each in agents] for agents in values["instances"]] == [["random"]] * 3
    seeds = [episode["seed"] for episode in values["agents"][0]["episodes"]]
    assert seeds == [10_000, 10_001] * 3
    rents = [agents[0]["summary"] for agents in values["instances"]]
    # The same actions on the same hosts: only the rent differs.
    terms = [
        [episode["reward_terms"]["rent"] for episode in agents[0]["episodes"]]
        for agents in values["instances"]
    ]
    assert terms[0] == [0, 0]
    assert terms[2] == pytest.approx([2 * rent for rent in terms[1]])
    mean = sum(summary_["total_reward"]["mean"] for summary_ in rents) / 3
    assert values["agents"][0]["summary"]["total_reward"]["mean"] == pytest.approx(mean)
    shown = events(summary.folder)
    by_instance = [shown.Scalars(f"instances/{number}/mean_reward")[0].value for number in range(3)]
    assert by_instance == pytest.approx([each["total_reward"]["mean"] for each in rents], abs=1e-4)
    assert stream.getvalue().count("instance ") == 3


def test_what_it_trained_on_is_written_and_played_again(tmp_path):
    summary = run(tmp_path, algo="esper_ppo")
    record = json.loads((summary.folder / checkpoint.RUN_RECORD).read_text())
    assert [each["overrides"] for each in record["config"]["instances"]] == [
        {**SMALL["overrides"], "reward.rent": rent} for rent in RENTS
    ]
    assert build(record["config"]).model_dump(mode="json") == record["config"]
    again = compare(build_comparison({"agents": [str(summary.folder)], "episodes": 2})).evaluations[0]
    assert again.episodes == summary.evaluations[0].episodes[:2]
    changed = [{"overrides": {"reward.rent": rent}} for rent in (0.0, 1.0, 3.0)]
    with pytest.raises(ValueError, match=r"another configuration: instances"):
        run(tmp_path, summary.folder, algo="esper_ppo", instances=changed)


@pytest.mark.parametrize(
    ("instance", "named"),
    [
        ({"overrides": {"host.slots": 2}}, r"instances\.1 has single_observation_space"),
        ({"episode_length": 7}, r"instances\.1 has horizon 7, instances\.0 has 6"),
        ({"overrides": {"reward.gamma": 0.9}}, r"instances\.1 has gamma 0\.9"),
        ({"overrides": {"reward.rnt": 1}}, r"instances\.1: .*rnt"),
        ({"env": "EsperNano-v0"}, r"EsperNano-v0"),
        ({"bogus": 1}, r"instances\.1\.bogus"),
    ],
)
def test_instances_that_no_agent_can_play_are_refused_by_name(tmp_path, instance, named):
    values = {**SMALL, "algo": "ppo", "instances": [{}, instance], "logdir": str(tmp_path)}
    with pytest.raises(ValueError, match=named):
        dry_run(build(values))
    with pytest.raises(ValueError, match=named):
        train(build(values), None, io.StringIO())
    assert list(tmp_path.iterdir()) == []


def test_an_instance_has_what_the_run_has_where_it_says_nothing():
    values = {"env": "EsperMicro-v0", "reward": "sparse", "overrides": {"host.slots": 2, "reward.rent": 1.0}}
    own = [{}, {"reward": "economy", "overrides": {"reward.rent": 3.0}}]
    first, second = build({**values, "instances": own}).instance_configs
    assert (first.env, first.reward, first.overrides) == ("EsperMicro-v0", "sparse", values["overrides"])
    assert (second.reward, second.overrides) == ("economy", {"host.slots": 2, "reward.rent": 3.0})
    assert first.instances == second.instances == ()


def test_worlds_are_closed_in_the_end_also_after_a_refusal():
    with Curriculum(build({**SMALL, "algo": "ppo"}), 2) as worlds:
        envs = [world.envs for world in worlds.worlds]
        assert [worlds.of_round(number).envs.config.reward.rent for number in range(4)] == [0, 1, 2, 0]
        assert not any(each.closed for each in envs)
    assert all(each.closed for each in envs)


def blocks(folder, **changes):
    several = {"engine.name": "null", "budget.params": [1.5, 3], "budget.compute": [0.5, 0.5, 2, 2]}
    settings = {**SMALL, "num_envs": 8, "instances": [], "overrides": several, "rounds": 1, **changes}
    return build({"algo": "esper_ppo", "compare": ["wait"], "logdir": str(folder), **settings})


def test_an_evaluation_plays_as_many_episodes_under_each_budget(tmp_path):
    config = blocks(tmp_path, eval_episodes=12, compare=["wait"])
    assert "dry run: everything fits" in dry_run(config)[-1]
    waited = train(config, None, io.StringIO()).evaluations[1].episodes
    assert sorted(each.length for each in waited) == [3] * 6 + [6] * 6


def test_episodes_that_cannot_be_divided_among_the_budgets_are_refused_before_the_run(tmp_path):
    for changes in ({"eval_episodes": 6}, {"eval_episodes": 4, "num_envs": 2}):
        for check in (dry_run, train):
            with pytest.raises(ValueError, match=r"4 blocks of environments|is no multiple of 4"):
                check(blocks(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_agents_that_do_not_learn_play_under_several_budgets_too(tmp_path):
    config = blocks(tmp_path, algo="schedule", compare=[], eval_episodes=4)
    dry_run(config)
    episodes = train(config, None, io.StringIO()).evaluations[0].episodes
    assert sorted(each.length <= 3 for each in episodes) == [False, False, True, True]


def test_a_host_is_not_held_against_itself_under_another_budget(tmp_path):
    for check in (dry_run, train):
        with pytest.raises(ValueError, match="replicas=4: 2 environments have the same budgets"):
            check(blocks(tmp_path, replicas=4, eval_episodes=4))
    assert not list(tmp_path.iterdir())


def test_instances_of_different_numbers_of_budgets_are_refused(tmp_path):
    several = [{"overrides": {"budget.params": own}} for own in ([1.5, 3], 2)]
    for check in (dry_run, train):
        with pytest.raises(ValueError, match=r"instances have \[2, 1\] blocks .*: one number is required"):
            check(build({**SMALL, "algo": "esper_ppo", "instances": several, "logdir": str(tmp_path)}))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_makes_the_update_that_it_says(monkeypatch):
    from esper_agents.ppo.update import Updater

    made, update = [], Updater.update
    monkeypatch.setattr(Updater, "update", lambda self, *args: made.append(1) or update(self, *args))
    lines = dry_run(build({**SMALL, "algo": "esper_ppo", "rounds_per_update": 3}))
    assert "1 update" in lines[-2]
    assert len(made) == 1


def test_what_is_evaluated_has_learned_since(tmp_path):
    """Between updates nothing changes; the run counts what it has learned from."""
    done = run(tmp_path, algo="esper_ppo", rounds=6, rounds_per_update=3, eval_every=1, compare=[])
    assert [event.step for event in events(done.folder).Scalars("eval/mean_reward")] == [36, 72]
    assert done.steps == 72
