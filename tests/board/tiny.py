"""Instances of hardly any size."""

from board.instances import find

TINY = {
    "horizon": 14, "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8,
    "task.train_size": 64, "task.val_size": 40, "task.test_size": 40,
}  # fmt: skip


def tiny(name="T1-data-00"):
    """An instance of that name, cut down."""
    whole = find(name)
    return whole.model_copy(update={"overrides": whole.overrides | TINY})
