"""A task of stories: a host reads windows of tokens and predicts the next token after each."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from esper_env.tasks import plot, tinystories
from esper_env.tasks.config import MOST, Size, TaskConfig
from esper_env.tasks.folder import cache_folder
from esper_env.tasks.tokenizer import Code
from esper_env.tasks.windows import TextSplit


@dataclass(frozen=True)
class StoryTask:
    """Predicting the next token. Tensors are shared by all environments of the process: never written to."""

    name: str
    """The `data` of the config."""
    provenance: str
    """One line that says what the stories are and where they come from."""
    train: TextSplit
    validation: TextSplit
    test: TextSplit
    """The three splits; no story of files is in two of them, and of procedural ones hardly any."""
    code: Code
    """What tokens stand for."""
    dtype: torch.dtype = torch.float32
    """Type of number of networks for this task."""
    family: str = "text"
    """What kind of input a host gets."""

    @property
    def num_classes(self) -> int:
        """Entries of the vocabulary."""
        return self.code.size

    @property
    def input_shape(self) -> tuple[int]:
        """(context,): tokens of a sample, as a host gets it."""
        return (self.train.context,)

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self.train.tokens.device

    @property
    def characters_per_token(self) -> dict[str, float]:
        """Characters of text for each token that is predicted, in the splits that are measured, by name."""
        counts = {name: getattr(self, name).counts(self.code.size) for name in ("validation", "test")}
        return {name: float(each @ self.code.characters) / int(each.sum()) for name, each in counts.items()}

    @property
    def frequency_loss(self) -> float:
        """Nats a token of the validation split for one who knows how frequent each is in the train split.

        Each counts as once more than it is there, so that none is impossible. At most ln(vocabulary).
        """
        seen, asked = (split.counts(self.code.size) for split in (self.train, self.validation))
        nats = -np.log((seen + 1) / (seen.sum() + len(seen)))
        return min(float(asked @ nats) / int(asked.sum()), math.log(self.code.size))

    def in_type(self, dtype: torch.dtype) -> "StoryTask":
        """The same task for networks of another type of number."""
        return replace(self, dtype=dtype)

    def decode(self, tokens: torch.Tensor | Iterable[int]) -> str:
        """The text of some tokens, (token,); the end of a story is `<|endoftext|>`."""
        return self.code.decode(tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens)


def load_stories(config: TaskConfig, context: int, device: torch.device) -> StoryTask:
    """The stories of a config in windows of `context` tokens. Tokens are held once per process and device.

    Raises:
        ValueError: files that are incomplete or damaged, or a split with fewer windows than asked for.
        DataUnavailableError: no files, and no download.
    """
    sizes: tuple[Size | None, ...]
    code: Code
    if config.data == "procedural":
        sizes, code = config.sizes("text"), plot.Words()
        splits = _procedural(config.sizes("text"), context, config.generator_seed, device)
        provenance = f"procedural stories, grammar v{plot.VERSION}, seed {config.generator_seed}"
    else:
        sizes = (config.train_size, config.val_size, config.test_size)
        splits, code, provenance = _from_files(config, device)
    names = ("train", "val", "test")
    train, validation, test = (
        _cut(name, tokens, context, size) for name, tokens, size in zip(names, splits, sizes, strict=True)
    )
    provenance += f"; {context} tokens a window"
    for purpose, tokens, part in zip(_PURPOSES, splits, (train, validation, test), strict=True):
        whole = TextSplit(tokens, context).num_samples
        if part.num_samples < whole:
            provenance += f", the first {part.num_samples:,} of {whole:,} for {purpose}"
    return StoryTask(config.data, provenance, train, validation, test, code)


_Splits = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_PURPOSES = ("training", "validation", "test")


@cache
def _procedural(sizes: tuple[int, int, int], context: int, seed: int, device: torch.device) -> _Splits:
    train, validation, test = (
        torch.from_numpy(plot.generate(size, context, seed, split)).to(device)
        for split, size in enumerate(sizes)
    )
    return train, validation, test


_READ: dict[tuple[Path, float, int, torch.device], tuple[_Splits, Code, str]] = {}
"""What was read from files, by what decides the tokens."""


def _from_files(config: TaskConfig, device: torch.device) -> tuple[_Splits, Code, str]:
    path, named_by = cache_folder(config.data_dir)
    share = config.validation_share("text")
    key = (path.resolve(), share, config.vocabulary, device)
    if key not in _READ:
        read = tinystories.load(path, named_by, config.patience, share, config.vocabulary)
        train, validation, test = (torch.from_numpy(tokens).to(device) for tokens in read.splits)
        _READ[key] = (train, validation, test), read.code, read.provenance
    return _READ[key]


def _cut(name: str, tokens: torch.Tensor, context: int, size: Size | None) -> TextSplit:
    """The first `size` windows of a split, `full` for all; None for as many as `MOST` says, or all."""
    split = TextSplit(tokens, context)
    if split.num_samples < (size if isinstance(size, int) else 1):
        wanted = f"task.{name}_size={size}" if isinstance(size, int) else f"context={context}"
        raise ValueError(
            f"{wanted} is not allowed: the {name} split has {len(tokens)} tokens, which make "
            f"{split.num_samples} windows of {context} tokens and one more"
        )
    kept = MOST.get(name, "full") if size is None else size
    return split if kept == "full" else TextSplit(tokens[: int(kept) * context + 1], context)
