"""The reference engine on a GPU plays the same game as on a CPU."""

import numpy as np
import pytest
from lives import GROW

from esper_env import EsperVectorEnv


@pytest.mark.gpu
def test_a_life_on_cuda_is_that_on_the_cpu_up_to_rounding() -> None:
    envs = [EsperVectorEnv(2, "micro", device=device, horizon=12) for device in ("cpu", "cuda")]
    infos = [env.reset(seed=0)[1] for env in envs]
    for step, action in enumerate(GROW):
        infos = [env.step(np.tile(action, (2, 1)))[-1] for env in envs]
        np.testing.assert_array_equal(infos[0]["op_slot_mask"], infos[1]["op_slot_mask"])
        if step == 0:
            np.testing.assert_allclose(infos[0]["train_loss"], infos[1]["train_loss"], rtol=1e-3)
