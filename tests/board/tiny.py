"""Instances of hardly any size, and jobs on them."""

from contextlib import closing

from board.cells import Cell
from board.entrants import AgentSpec, Entrant
from board.instances import find
from board.play import Job
from board.trace import Recorder, TraceAgent, world

from esper_agents.evaluate import evaluate

TINY = {
    "horizon": 14, "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8,
    "task.train_size": 64, "task.val_size": 40, "task.test_size": 40,
}  # fmt: skip


def tiny(name="T1-data-00"):
    """An instance of that name, cut down."""
    whole = find(name)
    return whole.model_copy(update={"overrides": whole.overrides | TINY})


CELL = Cell(params=3, compute=2)
PLAN = {"blueprints": ["conv_small", "norm"], "slots": [2, 0]}


def job(algo="schedule", seeds=(3, 4, 5), instance=None, **changes):
    config = {"schedule": PLAN} if algo == "schedule" else None
    who = Entrant(entry=algo, agent=AgentSpec(algo=algo, config=config))
    values = {
        "entrant": who,
        "instance": instance or tiny(),
        "cell": CELL,
        "seeds": seeds,
        "commitment": "00",
    }
    return Job(**values | changes)


def replay(instance, cell, episodes):
    """Recorded episodes, played again along their actions."""
    seeds = [episode["seed"] for episode in episodes]
    with closing(world(instance, cell, len(seeds))) as envs:
        recorder = Recorder(envs, instance, cell, seeds)
        agent = TraceAgent([episode["actions"] for episode in episodes])
        return recorder.records(evaluate(agent, envs, seeds, recorder.step).episodes)
