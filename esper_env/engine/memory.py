"""How many environments are trained side by side, and how many fit."""

from esper_env.engine.setup import Setup


def rows_at_once(setup: Setup) -> int:
    """Environments whose values of a training step are held at a time."""
    return 16
