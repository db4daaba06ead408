"""Laws of the growing network in place, for every blueprint, style and slot of a language host."""

import itertools

import numpy as np
import pytest
import torch
from growing import TRANSFORMER, plant
from lives import put
from texts import started

from esper_env import Stage, Style
from esper_env.blueprints.catalogue import CATALOGUE
from esper_env.contracts.state import SlotState
from esper_env.hosts.build import build_host
from esper_env.slots.grown import GrownModel, seeded


def test_fossilizing_at_full_alpha_changes_no_bit_in_any_slot() -> None:
    env, life = started()
    x, _ = env._engine._setup.loaded_task.validation.windows(torch.arange(4))
    with torch.no_grad():
        alone = life.model.eval()(x)
        for count, (blueprint, style, slot) in enumerate(itertools.product(TRANSFORMER, Style, range(3))):
            slots = SlotState.empty(1, 3)
            index = CATALOGUE.index(blueprint)
            put(
                slots,
                0,
                slot,
                blueprint=index,
                style=style,
                planting=count + 1,
                stage=Stage.HOLDING,
                alpha=1.0,
            )
            life.sync(slots, 0)
            held = life.model.eval()(x)
            slots.stage[0, slot] = Stage.FOSSILIZED
            life.sync(slots, 0)
            assert life.fossils == [slot]
            assert torch.equal(life.model.eval()(x), held), (blueprint.name, style, slot)
            assert not torch.equal(held, alone), "the module has its say"
    assert count == 7 * 4 * 3 - 1


@pytest.mark.parametrize(("name", "context"), [("gpt_micro", 64), ("gpt_small", 40)])
def test_logits_do_not_look_ahead_in_longer_windows_with_every_slot_taken(name: str, context: int) -> None:
    with seeded(3):
        host = build_host(name, (context,), 50).eval()
    places = [place.name for place in host.places]
    rng = np.random.default_rng(0)
    texts = torch.from_numpy(rng.integers(0, 50, (2, context)))
    for style in Style:
        model = GrownModel(host, [places.index(slot) for slot in host.default_slots])
        for slot, blueprint in enumerate(rng.choice(len(TRANSFORMER), 3, replace=False)):
            plant(model, slot, TRANSFORMER[blueprint], style, blended=True)
        with torch.no_grad():
            before = model.eval()(texts)
            for at in rng.integers(0, context - 1, 5).tolist():
                other = texts.clone()
                other[:, at + 1 :] = (other[:, at + 1 :] + 1) % 50
                after = model(other)
                assert torch.equal(before[:, : at + 1], after[:, : at + 1]), (style, at)
                assert not torch.equal(before[:, at + 1], after[:, at + 1])
