"""What `verify` asks for on another machine than the one that played."""

import math
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from board import checks, records, rerun, verify
from entered import call, paths, refused, tamper

from esper_env import Head, Op


def test_on_another_machine_rules_are_the_same_and_bits_are_not_asked_for(folder, capsys):
    def elsewhere(values):
        values["hardware"]["cpu"] = "another one"
        for episode in values["episodes"]:
            episode |= {"chain": "0" * 64, "state": "0" * 64, "quality": episode["quality"] + 0.005}

    tamper(folder, "esper_ppo", elsewhere)
    code, out = call(folder, capsys, "--entry", "esper_ppo")
    assert code == 0, out
    assert "2 episodes, not bit-verified: another one, 1 thread, torch" in out
    assert "here, quality -0.0050" in out
    assert "1 played again: verified, but for the host seeds, 1 of 1 not bit-verified\n" in out
    for more, message in (
        (0.06, "quality of 1 jobs played again is -0.0650 from what was reported: at most 0.0530 is chance"),
        (0.06, "mean quality "),  # 0.125 of it in all, of a job of two hosts 0.106 is chance
    ):

        def better(values, more=more):
            for episode in values["episodes"]:
                episode["quality"] += more

        tamper(folder, "esper_ppo", better)
        assert message in refused(folder, capsys, "--entry", "esper_ppo", "--share", 1)
    tamper(folder, "esper_ppo", lambda v: v["episodes"][0].update(rules="x"))
    assert "the trace leads elsewhere (rules)" in refused(folder, capsys, "--share", 1)


ELSEWHERE = {
    "a target that was never reached": (
        lambda e: e.update(val_quality=[0.9] * e["length"]), "mean val_quality 0.9000 was reported"
    ),
    "a target that was reached at once, at the same mean": (
        lambda e: e.update(val_quality=[
            1.0, *(q - (1 - e["val_quality"][0]) / (e["length"] - 1) for q in e["val_quality"][1:])
        ]),
        "mean val_quality after epoch 1",
    ),
    "less at its largest": (
        lambda e: e.update(most_params=e["params"]), "the trace leads elsewhere (most_params)"
    ),
    "a smaller network": (
        lambda e: e.update(param_ratio=e["param_ratio"] - 0.2), "the trace leads elsewhere (param_ratio)"
    ),
    "cheaper epochs": (
        lambda e: e.update(epoch_flops=[0.5 * e["epoch_flops"][0], *e["epoch_flops"][1:]]),
        "the trace leads elsewhere (epoch_flops)",
    ),
    "blueprints of one's own": (
        lambda e: [a.__setitem__(Head.BLUEPRINT, 6) for a in e["actions"] if a[Head.OP] == Op.GERMINATE],
        "the trace leads elsewhere",
    ),
    "no rollbacks": (lambda e: e.update(rollbacks=2), "the trace leads elsewhere (rollbacks)"),
}  # fmt: skip


@pytest.mark.parametrize("fraud", ELSEWHERE)
def test_who_names_another_machine_is_held_to_all_that_it_does_not_decide(folder, capsys, fraud):
    edit, message = ELSEWHERE[fraud]

    def elsewhere(values):
        values["hardware"]["cpu"] = "another one"
        for episode in values["episodes"]:
            edit(episode)

    tamper(folder, "heuristic", elsewhere)
    assert message in refused(folder, capsys, "--share", 1)


def test_the_few_steps_in_which_somebody_else_acted_are_found_on_every_machine(folder, capsys):
    """Nine steps in ten are waiting, in which everybody agrees."""
    _, values = paths(folder, "heuristic")
    acts = sum(action[-1] != 0 for episode in values["episodes"] for action in episode["actions"])
    steps = sum(episode["length"] for episode in values["episodes"])
    honest = verify.rerun(records.read(paths(folder, "heuristic")[0], records.Record), folder / "results")
    assert 0 < acts < steps
    assert honest.same.all()
    assert honest.acted.sum() == acts

    def lent(values):
        values["hardware"]["cpu"] = "another one"
        values["agent"]["algo"] = "wait"
        values["entry"] = "mine"

    tamper(folder, "heuristic", lent)
    assert "the agent chooses the recorded action in 0.0% of the steps in which it acted" in refused(
        folder, capsys, "--share", 1
    )


def test_who_acted_at_the_same_time_but_otherwise_is_found_on_every_machine(folder):
    """Of an action that is not the agent's, the op alone may agree: the heads that it reads count too."""
    path = paths(folder, "heuristic")[0]
    record = records.read(path, records.Record)

    class Other:
        """Plants the same, in another style."""

        def begin(self, seeds):
            return 0

        def act(self, obs, info, step):
            actions = np.array([episode.actions[step] for episode in record.episodes])
            actions[:, Head.STYLE] += 1
            return actions, step + 1

    shadow = rerun.Shadow(Other(), [episode.actions for episode in record.episodes])
    memory, steps = shadow.begin([0, 0]), min(episode.length for episode in record.episodes)
    for _ in range(steps):
        _, memory = shadow.act(np.zeros((2, 1)), {}, memory)
    same, acted = np.array(shadow.same), np.array(shadow.acted)
    planted = sum(a[Head.OP] == Op.GERMINATE for e in record.episodes for a in e.actions[:steps])
    assert (~same).sum() == planted > 0
    assert same[~acted].all()


def test_who_leaves_out_the_acts_of_an_agent_is_found_on_every_machine():
    """Nine steps in ten are the agent's own, and the recorded ones are all waiting."""

    class Planter:
        def begin(self, seeds):
            return 0

        def act(self, obs, info, step):
            return np.array([[0] * 7 + [Op.GERMINATE if step == 3 else Op.WAIT]]), step + 1

    shadow = rerun.Shadow(Planter(), [[[0] * 8] * 12])
    memory = shadow.begin([0])
    for _ in range(12):
        _, memory = shadow.act(np.zeros((1, 1)), {}, memory)
    assert np.mean(shadow.same) > checks.SAME
    assert (sum(shadow.acted), np.array(shadow.same)[shadow.acted].sum()) == (1, 0)


TABLE = SimpleNamespace(
    rows=[SimpleNamespace(instance=name, cell="3x2", admitted=name % 2 == 0) for name in range(40)]
)
"""Every second instance was admitted."""


def of_jobs(gaps, instances=None, acts=(10,), all_of_it=False, astray=()):
    """What is said of jobs that end so far from what was reported, on 4 hosts of an instance each.

    `acts`: in how many of the 10 steps in which it acts the agent agrees, job after job; it waits in 90.
    `astray`: in which jobs a module of the first episode is committed here alone.
    """
    jobs = []
    for number, gap in enumerate(gaps):
        name = (instances or range(len(gaps)))[number]
        committing = [[0] * 7 + [Op.FOSSILIZE]]
        episodes = [SimpleNamespace(seed=seed, actions=committing, stages=[[4]]) for seed in range(4)]
        stages = [{"stages": [[5 if number in astray and seed == 0 else 4]]} for seed in range(4)]
        same, acted = np.ones(100, dtype=bool), np.arange(100) < 10
        same[: 10 - acts[number % len(acts)]] = False
        again = SimpleNamespace(gap=lambda record, gap=gap: gap, same=same, acted=acted, episodes=stages)
        jobs.append((SimpleNamespace(instance=name, cell="3x2", episodes=episodes), again))
    return list(checks.together(jobs, TABLE, all_of_it))


def test_what_all_jobs_say_together_is_asked_for():
    """Within a point, or within 3 deviations of 2.5 points a host where these are more."""
    assert of_jobs([0.019, 0.019, 0.0, 0.0] * 10) == []
    every, scored = of_jobs([-0.021, -0.021, -0.003, -0.003] * 10)
    assert (
        every == "quality of 40 jobs played again is -0.0120 from what was reported: at most 0.0100 is chance"
    )
    assert scored.startswith("quality of 20 jobs that scores are made of played again is -0.0120")
    assert of_jobs([0.037], [1]) == []
    assert of_jobs([0.038], [1])
    assert of_jobs([math.nan])


def test_what_is_refused_makes_up_for_nothing_that_scores_are_made_of():
    [problem] = of_jobs([0.02, -0.02] * 20)
    assert problem.startswith("quality of 20 jobs that scores are made of played again is +0.0200")


def test_jobs_on_the_same_hosts_share_their_luck():
    """Ten training seeds that follow one plan are as lucky as one of them."""
    assert of_jobs([0.03] * 10, [0] * 10) == []
    assert of_jobs([0.03] * 10)


def test_an_agent_may_differ_now_and_then_but_not_everywhere():
    assert of_jobs([0.0] * 6, acts=(8, 10)) == []
    [problem] = of_jobs([0.0] * 6, acts=(8, 9))
    assert problem == (
        "the agent chooses the recorded action in 85.0% of the steps in which it acted, not in 90%"
    )
    assert of_jobs([0.0] * 5, acts=(8, 9)) == [], "of few jobs each is asked for as much as it can say"
    assert of_jobs([0.0] * 5, acts=(8, 9), all_of_it=True), "but not where these are all"


def test_gates_may_decide_otherwise_in_one_episode_of_twenty():
    assert of_jobs([0.0], astray=[0]) == []
    assert of_jobs([0.0] * 20, astray=range(4)) == []
    [problem] = of_jobs([0.0] * 20, astray=range(5))
    assert problem == "the trace leads elsewhere in 5 of 80 episodes, by a gate"


def test_an_episode_astray_is_held_to_its_quality_alone(folder, capsys):
    """The heuristic's last commit never was, so that stages and figures of one of two episodes are others."""
    lent = {}

    def uncommitted(values):
        values["hardware"]["cpu"] = "another one"
        episode = values["episodes"][0]
        ops = [action[Head.OP] for action in episode["actions"]]
        at = len(ops) - 1 - ops[::-1].index(Op.FOSSILIZE)
        for was in episode["stages"][at:]:
            was[episode["actions"][at][Head.SLOT]] = 4
        episode.update(params=episode["params"] + 1, **lent)

    tamper(folder, "heuristic", uncommitted)
    assert call(folder, capsys, "--entry", "heuristic", "--share", 1)[0] == 0
    lent["quality"] = 0.99
    tamper(folder, "heuristic", uncommitted)
    assert "mean quality" in refused(folder, capsys, "--entry", "heuristic", "--share", 1)


@pytest.mark.parametrize("waits", [False, True], ids=["acts", "waits"])
def test_seven_of_ten_choices_of_a_job_are_asked_for(folder, capsys, monkeypatch, waits):
    """Of all steps, and of those in which it acts."""
    played = verify.rerun

    def almost(of, record, results, device):
        again = played(record, results, device)
        acted = np.arange(100) < (0 if waits else 50)
        hardware = again.hardware.model_copy(update={"cpu": "another one"})
        return replace(again, hardware=hardware, same=np.arange(100) >= of, acted=acted)

    where = "the steps" if waits else "the steps in which it acted"
    for of, refuse in ((30, False), (31, True)) if waits else ((15, False), (16, True)):
        monkeypatch.setattr(verify, "rerun", partial(almost, of))
        if refuse:
            said = refused(folder, capsys, "--entry", "heuristic", "--share", 0.5)
            assert re.search(
                rf"the agent chooses the recorded action in \d+\.\d% of {where}, not in 70%", said
            )
        else:
            assert call(folder, capsys, "--entry", "heuristic", "--share", 0.5)[0] == 0
