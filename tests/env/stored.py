"""What the tests of real stories share: small files of the data set's form, and a hub that is none."""

from pathlib import Path

import torch

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks import tinystories
from esper_env.tasks.plot import GRAMMAR, Words
from esper_env.tasks.tokenizer import END

CPU = torch.device("cpu")
STORIES = [
    f"Story {i}. " + Words().decode(GRAMMAR.tell(generator(1, Stream.GENERATOR, i))[:-1]) for i in range(60)
]
TRAIN, TEST = STORIES[:50], STORIES[50:]


def write(cache, train=TRAIN, test=TEST):
    folder = cache / "tinystories"
    folder.mkdir(parents=True)
    for name, stories in zip(tinystories.FILES, (train, test), strict=True):
        (folder / name).write_text("".join(f"{story}\n{END}\n" for story in stories))
    return folder


def encoded(cache, vocabulary=300, val_fraction=0.1):
    return tinystories.load(cache, "data_dir", 60.0, val_fraction, vocabulary)


def texts(read):
    """The stories of each split."""
    return [read.code.decode(tokens.tolist()).split(END)[:-1] for tokens in read.splits]


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fake_download(repo_id, filename, *, repo_type, revision, local_dir, token):
    assert (repo_id, repo_type, token) == ("roneneldan/TinyStories", "dataset", False)
    assert len(revision) == 40
    stories = {"TinyStories-train.txt": TRAIN, "TinyStories-valid.txt": TEST}[filename]
    Path(local_dir).mkdir(parents=True, exist_ok=True)
    (Path(local_dir) / ".cache").mkdir(exist_ok=True)
    raw = f"\r\n{END}\r\n".join(["\n" + story for story in stories] + ["", "A story that is cut o"])
    (Path(local_dir) / filename).write_bytes(raw.encode())
    return str(Path(local_dir) / filename)
