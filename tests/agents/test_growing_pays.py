"""EsperMicro is a game: whoever grows early and commits beats whoever waits."""

import pytest

from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.wait import WaitAgent
from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv


@pytest.mark.slow
def test_a_schedule_beats_waiting_by_three_points_over_paired_seeds() -> None:
    env = EsperVectorEnv(8, "micro", device="cpu")
    seeds = range(500, 508)
    grown = evaluate(ScheduleAgent.of(ScheduleConfig(blueprint="conv_heavy"), env), env, seeds)
    gain = grown.against(evaluate(WaitAgent(), env, seeds))
    assert gain.mean >= 3
    assert gain.low > 0
