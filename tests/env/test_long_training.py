"""Law: 50 epochs of isolated training, then a slow blend, upset no host, in any blueprint and style."""

import numpy as np
import pytest
from texts import texts

from esper_env import EsperVectorEnv, Op, Stage, Style, encode

TRAINED, BLENDED = 50, 8
CNN_BLUEPRINTS = range(1, 8)
TRANSFORMER_BLUEPRINTS = (2, 3, 8, 9, 10, 11, 12)
STORIES = {
    "task.context": 16, "task.train_size": 512, "engine.epoch_size": 128,
    "engine.optimizer.warmup_steps": 100, "engine.optimizer.lr_schedule": "cosine",
}  # fmt: skip
"""Eight batches an epoch, as in EsperTinyStories."""


@pytest.mark.slow
@pytest.mark.parametrize("blueprint", CNN_BLUEPRINTS)
def test_a_long_isolation_and_a_slow_blend_upset_no_host(blueprint: int) -> None:
    upset_nothing(EsperVectorEnv(len(Style), "micro", device="cpu", horizon=200), blueprint)


@pytest.mark.slow
@pytest.mark.parametrize("blueprint", TRANSFORMER_BLUEPRINTS)
def test_nor_do_they_upset_a_host_that_reads_text(blueprint: int) -> None:
    upset_nothing(texts(len(Style), STORIES, horizon=200), blueprint)


def upset_nothing(env: EsperVectorEnv, blueprint: int) -> None:
    slots = range(env.facts.num_slots)
    env.reset(seed=0)
    heads = {"blueprint": blueprint, "tempo": 2, "alpha_target": 2}
    plant = [[encode(Op.GERMINATE, slot=s, style=style, **heads) for style in Style] for s in slots]
    advance = [[encode(Op.ADVANCE, slot=s)] * len(Style) for s in slots]
    wait = [[encode(Op.WAIT)] * len(Style)]
    for actions in (*plant, *advance, *wait * TRAINED, *advance, *wait * BLENDED):
        *_, info = env.step(np.array(actions))
        assert (info["reward_terms"]["rollback"] == 0).all(), "no panic"
        assert np.isfinite(info["val_loss"]).all()
    # What G2 refuses, because its gradients explode by now, stays in TRAINING; the rest is blended in.
    stages = env._state.slots.stage
    assert np.isin(stages, [Stage.TRAINING, Stage.BLENDING]).all()
    assert (env._state.slots.alpha == (stages == Stage.BLENDING)).all()
    assert (stages == Stage.BLENDING).any()
