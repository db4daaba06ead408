"""What a network may cost: caps on parameters and on training FLOPs, as multiples of the static host's."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Cell(BaseModel):
    """One pair of caps. Modules on trial and modules that were pruned count in both."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    params: float = Field(ge=1)
    """Most parameters at any time."""
    compute: float = Field(gt=0)
    """Training FLOPs that end an episode."""

    @property
    def id(self) -> str:
        """How tables and commands call it."""
        return f"{self.params:g}x{self.compute:g}"

    @classmethod
    def of(cls, name: str) -> Self:
        """The cell of a name such as `1.5x2`.

        Raises:
            ValueError: another form.
        """
        params, _, compute = name.partition("x")
        try:
            return cls(params=float(params), compute=float(compute))
        except ValueError:
            wanted = "PARAMSxCOMPUTE is required, at least 1 and above 0"
            raise ValueError(f"cell {name!r}: {wanted}, such as '1.5x2'") from None

    def overrides(self) -> dict[str, float]:
        """Of the environment's configuration."""
        return {"budget.params": self.params, "budget.compute": self.compute}


CELLS = {
    "T1": tuple(Cell(params=params, compute=compute) for params in (1.5, 3) for compute in (1, 2)),
    "T2": (Cell(params=3, compute=2),),
}
"""Tier -> its cells: the full grid, and its largest corner where an epoch is dear."""
