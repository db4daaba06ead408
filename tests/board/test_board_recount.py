"""What is counted anew is what the ledger says, over whole episodes of random growth."""

from contextlib import closing

import numpy as np
import pytest
from board.recount import Recount
from gymnasium.vector import AutoresetMode

from esper_agents.baselines import baseline
from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv, Op, encode

IMAGES = {
    "horizon": 40, "engine.epoch_size": 64, "engine.batch_size": 64, "task.train_size": 128,
    "task.val_size": 64, "task.test_size": 64, "engine.counterfactual_size": 16,
}  # fmt: skip
TEXT = {
    "horizon": 40, "host.name": "gpt_micro", "task.data": "procedural", "task.train_size": 64,
    "task.val_size": 16, "task.test_size": 8, "task.context": 16, "engine.epoch_size": 8,
    "engine.batch_size": 8, "engine.counterfactual_size": 8, "engine.optimizer.warmup_steps": 2,
}  # fmt: skip


class Grower:
    """Commits what it may and goes on where it can, most of the time; else legal at random."""

    name = "grower"

    def __init__(self, envs):
        self._random, self._rng = baseline("random", envs), np.random.default_rng(0)

    def begin(self, seeds):
        return self._random.begin(seeds)

    def act(self, obs, info, memory):
        actions, memory = self._random.act(obs, info, memory)
        for env, legal in enumerate(info["op_slot_mask"]):
            for op in (Op.FOSSILIZE, Op.ADVANCE):
                if legal[op].any() and self._rng.random() < 0.6:
                    actions[env] = encode(op, slot=int(self._rng.choice(np.flatnonzero(legal[op]))))
                    break
        return actions, memory


@pytest.mark.parametrize(("preset", "overrides"), [("micro", IMAGES), ("stories", TEXT)])
def test_parameters_and_flops_are_those_of_the_ledger(preset, overrides):
    spent, most = {}, np.zeros(6)
    with closing(
        EsperVectorEnv(6, preset, autoreset_mode=AutoresetMode.NEXT_STEP, overrides=overrides)
    ) as envs:
        count = Recount(envs)

        def watch(step):
            count.step(step)
            running = [env for env in range(6) if env not in spent]
            most[running] = np.maximum(most, envs.ledger()["params"])[running]
            for env in np.flatnonzero(step.ended).tolist():
                spent.setdefault(env, envs.ledger()["train_flops"][env])

        agent = Grower(envs)
        played = evaluate(agent, envs, list(range(6)), watch).episodes
        ratios = np.array([episode.measured["param_ratio"] for episode in played])
        assert (count.params == np.round(ratios * envs.facts.host_params)).all()
        assert (count.most_params == most).all()
        assert (count.most_params > count.params).any()
        assert count.flops == pytest.approx([spent[env] for env in range(6)], rel=1e-12)
        assert sum(episode.pruned for episode in played) > 0
        assert sum(episode.fossilized for episode in played) > 0
        assert count.params.max() > envs.facts.host_params
