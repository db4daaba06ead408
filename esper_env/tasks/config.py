"""The configuration of a task: what a host learns, images or stories."""

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from esper_env.tasks import procedural

Family = Literal["image", "text"]
"""What kind of input a host reads."""


class Defaults(NamedTuple):
    """What a field that is None stands for, by family. Samples are images or windows of tokens."""

    train_size: int
    val_size: int
    test_size: int
    val_fraction: float


DEFAULTS: dict[Family, Defaults] = {
    "image": Defaults(45_000, 5_000, 10_000, 0.1),
    "text": Defaults(2_048, 128, 128, 0.05),
}

Size = Annotated[int, Strict(), Field(ge=1)] | Literal["full"]
"""So many samples, or all that there are."""

MOST = {"val": 512, "test": 1_024}
"""Windows that are kept of a split of real stories where no size is given, if there are as many: 5% of the
whole data set are 80,000, and to validate on those would cost 100 times the training. To train, all are."""

ALLOWED: dict[Family, str] = {
    "image": "'cifar10', 'procedural' and 'folder:NAME'",
    "text": "'tinystories' and 'procedural'",
}
"""Values of `data`, by family."""

_FOLDER = re.compile(r"folder:[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TaskConfig(BaseModel):
    """Which images or stories a host learns, and how they are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str = "cifar10"
    """Images: `cifar10`, or `folder:NAME` for NAME/{train,test}_{images,labels}.npy in the cache. Stories:
    `tinystories`. Either, as the host reads: `procedural`."""
    data_dir: str | None = None
    """Cache folder; None takes ESPER_DATA_DIR, else ~/.cache/esper."""
    val_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training files that becomes validation (cifar10, folder, tinystories); None takes 0.1 of
    the images, 0.05 of the stories."""
    patience: float = Field(default=12.0, gt=0)
    """Seconds without a new byte after which a download is given up. What is fetched in large pieces, each of
    them written when it is whole, as TinyStories is, needs more than others."""
    image_size: int = Field(default=32, ge=8, le=128)
    """Height and width in pixels (procedural images)."""
    train_size: Size | None = None
    """Training samples (procedural), or the first windows, `full` for all (tinystories); None takes 45,000
    images, 2,048 windows (procedural), all windows (tinystories)."""
    val_size: Size | None = None
    """Validation samples, likewise; None takes 5,000 images, 128 windows (procedural), 512 windows, or all if
    there are fewer (tinystories)."""
    test_size: Size | None = None
    """Test samples, likewise; None takes 10,000 images, 128 windows (procedural), 1,024 windows, or all if
    there are fewer (tinystories)."""
    generator_seed: int = Field(default=0, ge=0)
    """Which procedural data set; no episode seed changes it."""
    difficulty: procedural.Difficulty = procedural.Difficulty()
    """What the procedural images look like."""
    augment: bool | None = None
    """Random crops and flips of training images; None: for cifar10 only, since elsewhere the orientation
    of an image may be its class."""
    crop_padding: int = Field(default=4, ge=0, le=16)
    """Pixels of black border from which a crop of the original size is drawn (where augmented)."""
    flip: bool = True
    """Mirror every other image, at random (where augmented)."""
    context: int | None = Field(default=None, ge=2, le=65_536)
    """Tokens of a window (stories); None takes the host's."""
    vocabulary: int = Field(default=4096, ge=256, le=32_768)
    """Entries of the byte-pair code (tinystories); 256 for plain bytes."""

    @field_validator("data")
    @classmethod
    def _known(cls, data: str) -> str:
        if data not in ("cifar10", "procedural", "tinystories") and not _FOLDER.fullmatch(data):
            raise ValueError(
                f"data={data!r}: allowed are {ALLOWED['image']} for images, NAME being a plain folder name "
                f"(letters, digits, '_', '-', '.') inside the cache folder, and {ALLOWED['text']} for stories"
            )
        return data

    def sizes(self, family: Family) -> tuple[int, int, int]:
        """Samples of the procedural splits: train, validation, test."""
        asked, default = (self.train_size, self.val_size, self.test_size), DEFAULTS[family]
        train, val, test = (
            size if isinstance(size, int) else default[index] for index, size in enumerate(asked)
        )
        return int(train), int(val), int(test)

    def validation_share(self, family: Family) -> float:
        """Share of the training files that becomes validation."""
        return DEFAULTS[family].val_fraction if self.val_fraction is None else self.val_fraction

    def refuse_other(self, family: Family) -> None:
        """Refuse data that a host of this family can't read.

        Raises:
            ValueError: stories for images or the other way round.
        """
        if self.data != "procedural" and (self.data == "tinystories") != (family == "text"):
            held, read = ("images", "stories") if family == "text" else ("stories", "images")
            raise ValueError(
                f"data={self.data!r} is not allowed: it holds {held}, and the host reads {read}; "
                f"allowed are {ALLOWED[family]}"
            )

    def window(self, context: int | None) -> int:
        """Tokens of a window of stories.

        Args:
            context: the host's.

        Raises:
            ValueError: neither the host nor this configuration says it.
        """
        chosen = context if self.context is None else self.context
        if chosen is None:
            raise ValueError("context=None is not allowed: the host names no number of tokens a window")
        return chosen
