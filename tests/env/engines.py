"""The engines, and the kernels of the fused one, that tests of the game through the protocol are run on."""

from typing import Any

from esper_env.engine.kernels.build import load

KERNELS = ("torch", "native") if load() else ("torch",)
"""What the fused engine can compute with on this CPU in float32: `make test` builds the native kernels."""
FUSED = tuple(f"fused/{kernels}" for kernels in KERNELS)
ENGINES = ("reference", *FUSED)
APART = ("reference", *(f"fused/{kernels}" for kernels in KERNELS if kernels == "native"))
"""Those in which an environment's bits do not depend on which others run beside it."""


def settings(engine: str) -> dict[str, Any]:
    """The overrides that an entry of `ENGINES` stands for; any other engine by its name."""
    name, _, kernels = engine.partition("/")
    return {"engine.name": name} | ({"engine.kernels": kernels} if kernels else {})
