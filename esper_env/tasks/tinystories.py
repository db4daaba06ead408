"""TinyStories (R. Eldan, Y. Li, arXiv 2305.07759): short stories in the words of small children.

Read from the cache folder when they are there, else downloaded with huggingface_hub, which checks the size.
The last stories of the training file are validation, valid.txt is the test split. A story whose very text is
also in a later one of train, validation and test is left out of the earlier, so that none is in two splits.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from esper_env.tasks import token_cache
from esper_env.tasks.config import DEFAULTS
from esper_env.tasks.download import DataSet, ensure
from esper_env.tasks.folder import cache_folder
from esper_env.tasks.tokenizer import END, BytePairs, Bytes, Tokens, train

FILES = ("train.txt", "valid.txt")
REPOSITORY = "roneneldan/TinyStories"
REVISION = "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
"""What is downloaded stays the same, whatever becomes of the repository."""
RECIPE = 1
"""Raised when the same files would become other tokens, so that what is cached is not taken for them."""

Reader = Callable[[], Iterator[str]]


class Encoded(NamedTuple):
    """TinyStories as tokens. Stories of a split follow each other, each with the end token after it."""

    splits: tuple[Tokens, Tokens, Tokens]
    """Train, validation, test, int16 (token,)."""
    code: Bytes | BytePairs
    provenance: str
    """One line: which files, which code, and where the tokens are kept."""


def cached(data_dir: str | None = None) -> bool:
    """Whether TinyStories is in the cache folder, whole or not: then nothing is downloaded.

    Args:
        data_dir: the cache folder; None for ESPER_DATA_DIR, else `~/.cache/esper`.
    """
    return SOURCE.cached(data_dir)


def check(data_dir: str | None, vocabulary: int, val_fraction: float | None) -> None:
    """Whether stories in the cache folder, if they are there, can be coded. They are not read for it.

    Args:
        data_dir: as for `cached`.
        vocabulary: `task.vocabulary`.
        val_fraction: `task.val_fraction`.

    Raises:
        ValueError: no tokens are kept, and the library that makes them is missing.
    """
    if vocabulary == Bytes.size or not cached(data_dir):
        return
    folder = cache_folder(data_dir)[0] / SOURCE.folder
    share = DEFAULTS["text"].val_fraction if val_fraction is None else val_fraction
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        if not token_cache.read(folder, _name(folder, share, vocabulary)):
            raise _without_library(folder, vocabulary, error) from error


def load(cache: Path, named_by: str, patience: float, val_fraction: float, vocabulary: int) -> Encoded:
    """All stories as tokens, from `cache / "tinystories"` or from the network.

    Args:
        cache: the cache folder.
        named_by: which setting named it, for the error.
        patience: seconds without a new byte after which a download is given up.
        val_fraction: share of the training file's stories that becomes validation.
        vocabulary: entries of the byte-pair code, which is trained on the train split; 256 for plain bytes.

    Raises:
        ValueError: the files are there but incomplete or damaged, and left as they are; or the library that
            makes the code is missing; or more entries than the stories have pairs for.
        DataUnavailableError: they are not there and the download failed.
    """
    folder = ensure(SOURCE, cache, named_by, patience)
    code: Bytes | BytePairs
    if vocabulary == Bytes.size:
        code = Bytes()
        splits, told = _encode(code, split(folder, val_fraction)), "as bytes"
    else:
        kept, where = _kept(folder, val_fraction, vocabulary)
        code, splits = BytePairs(kept.record), kept.splits
        told = f"{code.name} of {vocabulary} entries, tokens kept {where}"
    counts = " + ".join(f"{(tokens == code.end).sum()}" for tokens in splits)
    return Encoded(splits, code, f"real TinyStories, from {folder}: {counts} stories, {told}")


def stories(path: Path, whole: bool = True) -> Iterator[str]:
    """The stories of a file, trimmed at both ends; empty ones are passed over.

    Args:
        path: UTF-8 text with `END` after each story.
        whole: whether text after the last `END` is an error; else it is passed over.

    Raises:
        ValueError: no story, text that is not UTF-8, or a last story without its end.
    """
    count, lines = 0, [""]
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                *ends, rest = line.split(END)
                for end in ends:
                    if story := "".join([*lines, end]).strip():
                        count += 1
                        yield story
                    lines = []
                lines.append(rest)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); expected whole stories") from error
    if whole and "".join(lines).strip():
        raise ValueError(f"{path}: cut off, the last story has no {END} after it; expected whole stories")
    if not count:
        raise ValueError(f"{path}: no story in it; expected stories with {END} on a line after each")


def split(folder: Path, val_fraction: float) -> tuple[Reader, Reader, Reader]:
    """What reads the stories of train, validation and test from the files of a folder.

    Raises:
        ValueError: as `stories`, or a validation split of no or all stories.
    """
    path, of_test = (folder / name for name in FILES)
    total = sum(1 for _ in stories(path))
    first = total - round(val_fraction * total)
    if not 0 < first < total:
        raise ValueError(
            f"val_fraction={val_fraction} of {total} stories in {path} leaves {first} for training and "
            f"{total - first} for validation; both need at least 1"
        )
    in_test = {_key(story) for story in stories(of_test)}

    def validation() -> Iterator[str]:
        return (each for each in islice(stories(path), first, None) if _key(each) not in in_test)

    later = in_test | {_key(story) for story in validation()}

    def training() -> Iterator[str]:
        return (each for each in islice(stories(path), first) if _key(each) not in later)

    return training, validation, lambda: stories(of_test)


def _key(story: str) -> bytes:
    return blake2b(story.encode(), digest_size=16).digest()


def _encode(code: Bytes | BytePairs, splits: tuple[Reader, Reader, Reader]) -> tuple[Tokens, Tokens, Tokens]:
    train_tokens, validation, test = (code.encode_stories(read()) for read in splits)
    return train_tokens, validation, test


def _kept(folder: Path, val_fraction: float, vocabulary: int) -> tuple[token_cache.Kept, str]:
    """Tokens and code, from the cache or made now, and in a few words where they are kept."""
    name = _name(folder, val_fraction, vocabulary)
    if found := token_cache.read(folder, name):
        return found[0], f"in {found[1]}"
    splits = split(folder, val_fraction)
    try:
        code = train(splits[0](), vocabulary)
    except ImportError as error:
        raise _without_library(folder, vocabulary, error) from error
    kept = token_cache.Kept(_encode(code, splits), code.record)
    path = token_cache.write(folder, name, kept)
    tried = " nor ".join(map(str, token_cache.places(folder)))
    return kept, f"in {path}" if path else f"in memory, since neither {tried} can be written"


def _name(folder: Path, val_fraction: float, vocabulary: int) -> str:
    """Of the file that keeps the tokens of these stories."""
    return token_cache.name_for(RECIPE, vocabulary, val_fraction, *(_sum(folder / file) for file in FILES))


def _without_library(folder: Path, vocabulary: int, error: ImportError) -> ValueError:
    # No DataUnavailableError: the stories are there, and nobody should be given others for them.
    return ValueError(
        f"vocabulary={vocabulary} is not allowed: it needs the library tokenizers for the stories in "
        f'{folder} ({error}). Three ways out: pip install "esper-env[text]"; task.vocabulary=256, which is '
        'plain bytes; or data="procedural"'
    )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _download(raw: Path, ready: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in FILES:
        # The data set is public: no token is sent.
        source = hf_hub_download(
            REPOSITORY,
            f"TinyStories-{name}",
            repo_type="dataset",
            revision=REVISION,
            local_dir=raw,
            token=False,
        )
        with (ready / name).open("w", encoding="utf-8", newline="\n") as target:
            target.writelines(f"{story}\n{END}\n" for story in stories(Path(source), whole=False))


SOURCE = DataSet(
    "TinyStories",
    "tinystories",
    FILES,
    f"UTF-8, a line {END} after each story",
    "huggingface_hub, which esper-env[text] brings,",
    _download,
)
