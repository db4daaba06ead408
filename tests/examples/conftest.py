"""How the tests get at the examples, which are files and no package."""

from importlib import import_module
from pathlib import Path

import gymnasium as gym
import pytest

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by name, as Python finds it when it is run as a file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module


@pytest.fixture
def costly_ops(monkeypatch):
    """The examples train nothing and pay for ops alone: the best return, 0, is that of WAIT."""
    make_vec = gym.make_vec

    def cheap(name, *arguments, **settings):
        if name == "EsperMicro-v0":
            settings |= {"engine": "null", "reward": {"op_cost": 1.0}}
        return make_vec(name, *arguments, **settings)

    monkeypatch.setattr(gym, "make_vec", cheap)
