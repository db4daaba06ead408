"""What `test_parity` shows, through longer lives and more of them."""

import numpy as np
import pytest
from apart import agree, distances, moved
from engines import FUSED
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test as run
from numpy.typing import NDArray
from parity import DOUBLE, EXACT, QUICK, Pair, lively, small
from test_parity_machine import SideBySide

from esper_env import Stage
from esper_env.hosts.cnn import HOSTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("isolation", ["training", "always"])
@pytest.mark.parametrize("host", HOSTS)
def test_twenty_epochs_agree_on_every_host_in_double_precision(
    host: str, isolation: str, engine: str
) -> None:
    size = {"task.image_size": 32 if host == "deep" else 8}
    num_envs = {"deep": 6, "blind": 14}.get(host, 8)
    pair = Pair(num_envs, engine, DOUBLE | QUICK | size, host=host, isolation=isolation)
    pair.reset(seed=11)
    for number, (first, second) in enumerate(pair.live(20, seed=5), start=1):
        agree(first, second, EXACT)
        if number in (1, 20):
            pair.agree(EXACT)
    blended = {f"blended {blueprint}" for blueprint in range(1, 8)}
    assert {Stage.FOSSILIZED.name, Stage.PRUNED.name, "frozen", "retargeted"} | blended <= set(+pair.seen)


@pytest.mark.parametrize("engine", FUSED)
def test_an_epoch_of_full_size_agrees_in_double_precision(engine: str) -> None:
    """Batches, images and epochs of EsperMicro itself."""
    micro = {
        "task.train_size": 1024,
        "task.image_size": 16,
        "engine.batch_size": 64,
        "engine.epoch_size": 512,
    }
    pair = Pair(4, engine, DOUBLE | QUICK | micro)
    pair.reset(seed=1)
    for first, second in pair.live(12, seed=5):
        agree(first, second, EXACT)
    pair.agree(EXACT)


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("host", ["micro", "baseline", "minimal"])
def test_single_precision_is_no_further_off_than_three_times_what_one_ulp_brings(
    host: str, engine: str
) -> None:
    """On `minimal`, where the reference itself is: no further from double precision than that is (016)."""
    for seed in (1, 2):
        pair, exact = Pair(12, engine, host=host), small(12, "reference", DOUBLE, host=host)
        other = small(12, "reference", host=host)
        for each in (pair, exact, other):
            each.reset(seed=seed)
        moved(other)
        rng = np.random.default_rng(seed)
        for number in range(1, 21):
            actions = lively(pair.reference, pair.info, rng)
            for env in (pair, exact, other):
                env.step(actions)
            for env in (pair.fused, exact, other):
                np.testing.assert_array_equal(env._state.slots.stage, pair.reference._state.slots.stage)
            if number in (1, 20):
                off, ulp, own, its = (
                    _mean(distances(first, second))
                    for first, second in (
                        (pair.reference, pair.fused),
                        (pair.reference, other),
                        (exact, pair.fused),
                        (exact, pair.reference),
                    )
                )
                assert off > 0
                assert off < 3 * ulp or (host == "minimal" and own <= its)


def _mean(each: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(each).mean()))


def test_many_random_lives_side_by_side() -> None:
    SideBySide.seen.clear()
    limits = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
    run(SideBySide, settings=settings(limits, phases=[Phase.generate]))
    assert {"FOSSILIZED", "rollback", "swapped", "end"} <= set(+SideBySide.seen)
