"""Seeds of the hosts that episodes begin with: what agents are chosen by, and what they are judged by.

Every purpose has a range of seeds of its own, and all lie above those that training runs draw (32 bits).
Seeds for evaluation follow from a secret of which only the hash is published before entries come in (commit
and reveal): afterwards anybody can check that the secret was settled, and play the same episodes.
"""

import hashlib
from typing import Literal

from board.instances import Instance

Purpose = Literal["search", "tuning", "reference", "evaluation"]
RANGES: dict[Purpose, int] = {"search": 1, "tuning": 2, "reference": 3, "evaluation": 4}
"""Which part of the seeds belongs to a purpose: searching lives, tuning schedules, measuring references and
judging entries. Seeds of the first three are public."""
WIDTH = 2**48
"""Seeds of a purpose."""
HOSTS = 4
"""Host seeds from which every job of the board is played, the first ones."""
LOCAL_SECRET = "local"
"""Of evaluations that nobody committed to: for use at home."""
REVEALED = (LOCAL_SECRET, "420e409ee84d1c81f5187acc4b37c448")
"""What everybody may know by now: references committed to one of these are played without saying which."""


def commitment(secret: str) -> str:
    """What is published of a secret: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def known(committed: str) -> str | None:
    """The secret that was committed to, once it is revealed."""
    return next((secret for secret in REVEALED if commitment(secret) == committed), None)


def public_seeds(purpose: Purpose, instance: Instance, count: int) -> list[int]:
    """The first seeds of an instance that everybody may know.

    Raises:
        ValueError: the purpose is evaluation.
    """
    if purpose == "evaluation":
        raise ValueError("seeds for evaluation need a secret: see evaluation_seeds")
    return _derived(purpose, "", instance, count)


def evaluation_seeds(secret: str, instance: Instance, count: int) -> list[int]:
    """The first seeds of an instance under a secret."""
    return _derived("evaluation", secret, instance, count)


def _derived(purpose: Purpose, secret: str, instance: Instance, count: int) -> list[int]:
    text = f"{secret}/{instance.hash}/{purpose}"
    digests = (hashlib.sha256(f"{text}/{number}".encode()).digest() for number in range(count))
    return [RANGES[purpose] * WIDTH + int.from_bytes(digest[:6], "big") for digest in digests]
