"""From a name to an engine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_env.engine.engine import Engine, EngineConfig
from esper_env.engine.fused import FusedEngine
from esper_env.engine.null import NullEngine
from esper_env.engine.reference import ReferenceEngine
from esper_env.engine.setup import Setup


class ForkedEngine(NullEngine):
    """Stands in where CUDA can't work, and says so at the first reset.

    Gymnasium's workers pass on errors of a reset, but not those of a constructor.
    """

    def begin(self, envs: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """See `Engine`.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "CUDA was used before this worker process was forked, so it can't be used here: "
            "pass vector_kwargs={'context': 'spawn'} to make_vec, or device='cpu'"
        )


def engine_name(config: EngineConfig) -> str:
    """The engine that the configuration means: `auto` is one of the others."""
    return "fused" if config.name == "auto" else config.name


def build_engine(num_envs: int, setup: Setup) -> Engine:
    """The engine that the configuration names; which one never depends on `num_envs`."""
    engines = {"null": NullEngine, "reference": ReferenceEngine, "fused": FusedEngine}
    chosen: type[Engine] = ForkedEngine if setup.forked else engines[engine_name(setup.config)]
    return chosen(num_envs, setup)  # type: ignore[call-arg]
