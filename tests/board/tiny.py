"""Instances of hardly any size, and jobs on them."""

from board.cells import Cell
from board.entrants import AgentSpec, Entrant
from board.instances import find
from board.play import Job

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
