"""How many samples an epoch has and how many are measured, checked against how many there are."""

from esper_env.engine.engine import EngineConfig
from esper_env.tasks.outline import Outline


def refuse_few(engine: EngineConfig, shape: Outline) -> None:
    """Refuse to read or measure more samples than there are, as far as that is known.

    Raises:
        ValueError: epoch_size `full` of fewer training samples than a batch; or more samples for
            counterfactuals than the validation split has.
    """
    full, train_size, val_size = engine.epoch_size == "full", shape.train_size, shape.val_size
    if full and train_size is not None and train_size < engine.batch_size:
        raise ValueError(
            f"epoch_size='full': {train_size} training samples are less than batch_size={engine.batch_size}"
        )
    if val_size is not None and engine.counterfactual_size > val_size:
        raise ValueError(
            f"engine.counterfactual_size={engine.counterfactual_size} is not allowed: "
            f"the validation split has {val_size} samples"
        )


def refuse_few_windows(engine: EngineConfig, shape: Outline, data: str) -> None:
    """The same for text that had to be read before its windows could be counted.

    Raises:
        ValueError: as `refuse_few`; or fewer training windows than a batch.
    """
    refuse_few(engine, shape)
    if shape.train_size is not None and shape.train_size < engine.batch_size:
        raise ValueError(
            f"batch_size={engine.batch_size} is not allowed: data={data!r} with "
            f"vocabulary={shape.num_classes} and context={shape.input_shape[0]} has only {shape.train_size} "
            "training windows"
        )


def epoch_size(engine: EngineConfig, shape: Outline) -> int:
    """Training samples an epoch.

    Raises:
        ValueError: epoch_size `full` of data that are not read.
    """
    if engine.epoch_size != "full":
        return engine.epoch_size
    if shape.train_size is None:
        raise ValueError(
            "epoch_size='full' is not allowed: how many training samples there are is known only once they "
            f"are read, and engine={engine.name!r} reads none; a number is allowed"
        )
    return shape.train_size // engine.batch_size * engine.batch_size
