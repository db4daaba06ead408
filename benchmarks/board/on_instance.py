"""What all jobs on an instance have in common: budgets, version, and the hash that names their folder."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from board.canonical import content_hash
from board.cells import Cell
from board.instances import Instance, environment_version


class OnInstance(BaseModel):
    """A job (`board.jobs.Work`) but for the work itself; equal ones have equal hashes, and one folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    KIND: ClassVar[str | None] = None
    """Tells jobs of other kinds with the same fields apart."""
    RESULT: ClassVar[str]
    """Name of the file with the result."""

    instance: Instance
    cell: Cell
    """Budgets."""
    environment_version: str = Field(default_factory=environment_version)
    device: str = "cpu"
    """Where networks grow."""

    @property
    def hash(self) -> str:
        """Of everything that decides the result, in hex."""
        kind = {} if self.KIND is None else {"kind": self.KIND}
        return content_hash(self.model_dump(mode="json") | {"instance": self.instance.hash} | kind)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.hash[:16]

    @property
    def result(self) -> str:
        """Name of the file with the result."""
        return self.RESULT
