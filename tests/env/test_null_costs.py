"""The null engine charges what the fused one does: budgets are rules, and it plays the real ones."""

import numpy as np
import pytest

from esper_env import EsperVectorEnv

SMALL = {
    "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8,
    "task.train_size": 64, "task.val_size": 40, "task.test_size": 40,
}  # fmt: skip


@pytest.mark.parametrize("preset", ["micro", "stories"])
def test_training_costs_what_it_does_on_networks_that_train(preset: str) -> None:
    """Along the same actions, as long as what a gate says of a network has not led apart."""
    sizes = SMALL | {"task.data": "procedural"} | ({"host.name": "gpt_micro"} if preset == "stories" else {})
    null, fused = (
        EsperVectorEnv(12, preset, horizon=40, engine=engine, overrides=sizes) for engine in ("null", "fused")
    )
    seeds, rng = list(range(12)), np.random.default_rng(1)
    null.reset(seed=seeds)
    fused.reset(seed=seeds)
    alike, gated = np.ones(12, dtype=bool), False
    compared = 0
    for _ in range(39):
        actions = fused.sample_valid(rng)
        for env in (null, fused):
            env.step(actions)
        first, second = (env._state.slots for env in (null, fused))
        alike &= (first.stage == second.stage).all(axis=1) & (first.ramp == second.ramp).all(axis=1)
        spent = [env.ledger()["train_flops"] for env in (null, fused)]
        np.testing.assert_allclose(spent[0][alike], spent[1][alike], rtol=1e-12)
        compared += int(alike.sum())
        gated |= bool((second.gate_params[alike] > 0).any())
    static = null.facts.host_flops * 16 * 39
    assert compared > 60
    assert (spent[0] > static).all()
    assert gated, "modules with gates are among them"


def test_a_compute_budget_ends_an_episode_of_the_null_engine() -> None:
    env = EsperVectorEnv(2, "micro", engine="null", horizon=30, compute_budget=1.2, auto_advance=["G1"])
    env.reset(seed=[0, 1])
    heavy = env.facts.blueprints.index("conv_heavy")
    length = np.zeros(2)
    playing = np.ones(2, dtype=bool)
    for step in range(30):
        actions = np.zeros((2, 8), dtype=np.int64)
        if step == 0:
            actions[0, [0, 1, 7]] = 0, heavy, 1
        _, _, ended, _, info = env.step(actions)
        assert info["action_valid"].all()
        length[playing] += 1
        playing &= ~ended
    assert length[0] < length[1] == 30
