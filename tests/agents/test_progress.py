"""What is said while agents are evaluated."""

import io
from contextlib import closing

import gymnasium as gym

from esper_agents.baselines import baseline
from esper_agents.compare import CompareConfig, compare
from esper_agents.evaluate import evaluate, most_steps
from esper_agents.progress import Evaluating

SMALL = {"env": "EsperMicro-v0", "overrides": {"engine.name": "null", "horizon": 6}, "num_envs": 2}


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self):
        """It is."""
        return True


def make():
    return gym.make_vec("EsperMicro-v0", num_envs=2, engine="null", horizon=6)


def test_an_evaluation_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr("esper_agents.progress.SAY_EVERY", 0)
    stream = io.StringIO()
    compare(CompareConfig(agents=["wait", "random"], episodes=4, **SMALL), stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "evaluation 1/2 wait: 1/12 steps"
    assert lines[11] == "evaluation 1/2 wait: 12/12 steps"
    assert lines[-1] == "evaluation 2/2 random: 12/12 steps"


def test_a_short_evaluation_says_nothing():
    stream = io.StringIO()
    compare(CompareConfig(agents=["wait"], episodes=2, **SMALL), stream)
    assert stream.getvalue() == ""


def test_on_a_terminal_a_bar_is_shown():
    stream = Terminal()
    with closing(make()) as envs, Evaluating(1, stream) as shown:
        evaluate(baseline("wait", envs), envs, [1, 2], shown.play("wait", most_steps(envs, [1, 2])))
    assert "1/1 wait" in stream.getvalue()
