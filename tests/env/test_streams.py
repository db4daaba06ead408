"""Counter-based randomness against an independent implementation, and the seeds of episodes."""

import itertools

import numpy as np
import pytest

from esper_env.arguments import chosen, seed_list
from esper_env.contracts.streams import Stream, generator, key
from esper_env.mdp.episode import EpisodeSeeds

CASES = [
    (0, Stream.EPISODE),
    (1, Stream.DATA, 0),
    (2**63 - 1, Stream.MODULE_INIT, 2, 7, 1),
    (12345, Stream.AUGMENT, 9),
]
GOLDEN = [6017775124710473527, 7677174711969977290, 7133510875615203195, 3215954309043264548]


def splitmix(state: np.uint64) -> np.uint64:
    """One output of Vigna's splitmix64 from this state, in numpy's wrapping arithmetic."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def test_the_mixing_is_splitmix64() -> None:
    assert splitmix(np.uint64(0)) == 0xE220A8397B1DCDAF, "published first output for seed 0"
    for seed, *parts in CASES:
        state = splitmix(np.uint64(seed))
        for part in parts:
            with np.errstate(over="ignore"):
                state = splitmix(state + np.uint64(part))
        assert key(seed, *parts) == int(state >> np.uint64(1))


def test_keys_never_change() -> None:
    assert [key(*case) for case in CASES] == GOLDEN
    draws = generator(3, Stream.DATA, 1).integers(0, 1000, size=5).tolist()
    assert draws == [721, 253, 595, 974, 53]


def test_keys_of_different_uses_differ_and_fit_every_generator() -> None:
    uses = [
        (s, t, *c)
        for s in range(30)
        for t in Stream
        for n in range(3)
        for c in itertools.product(range(3), repeat=n)
    ]
    keys = [key(*use) for use in uses]
    assert len(set(keys)) == len(uses)
    assert min(keys) >= 0
    assert max(keys) < 2**63


def test_the_same_use_gives_the_same_numbers_whatever_was_drawn_in_between() -> None:
    first = generator(5, Stream.DATA, 2).random(10)
    generator(5, Stream.DATA, 1).random(1000)
    np.random.default_rng(5).random(10)
    assert (generator(5, Stream.DATA, 2).random(10) == first).all()


def test_streams_seeds_and_counters_are_uncorrelated() -> None:
    uses = [
        (s, t, c) for s in (0, 1) for t in (Stream.DATA, Stream.AUGMENT, Stream.HOST_INIT) for c in (0, 1)
    ]
    draws = np.array([generator(*use).random(4000) for use in uses])
    correlation = np.corrcoef(draws) - np.eye(len(uses))
    # Of 66 pairs with a standard deviation of 1/sqrt(4000), none should be beyond five of them.
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert np.abs(draws.mean(axis=1) - 0.5).max() < 5 * np.sqrt(1 / 12 / 4000)


def test_episodes_follow_from_the_reset_seed_alone() -> None:
    one, many = EpisodeSeeds(1), EpisodeSeeds(3)
    alone = [one.next(0, 11), one.next(0, None), one.next(0, None)]
    many.next(0, 4)
    many.next(1, 5)
    assert [many.next(2, 11), many.next(2, None), many.next(2, None)] == alone
    assert alone == [key(11, Stream.EPISODE, n) for n in range(3)]
    assert [one.next(0, 11), one.next(0, None)] == alone[:2], "the same seed starts the same series"
    assert one.next(0, 12) not in alone


def test_an_environment_never_seeded_draws_its_own_seed() -> None:
    first, second = EpisodeSeeds(1), EpisodeSeeds(1)
    assert first.next(0, None) != second.next(0, None)
    assert first.next(0, None) == key(first._roots[0] or 0, Stream.EPISODE, 1)


def test_an_int_seed_is_spread_over_the_environments_and_a_list_is_taken_as_it_is() -> None:
    assert seed_list(7, 3) == [7, 8, 9]
    assert seed_list(np.int64(7), 2) == [7, 8]
    assert seed_list([3, None, 1], 3) == [3, None, 1]
    assert seed_list(None, 2) == [None, None]


@pytest.mark.parametrize("seed", [-1, [0, -1], [0, 1.5], [0, "a"], [0, True], [1], 1.5, "ab", True])
def test_a_seed_that_is_no_natural_number_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        seed_list(seed, 2)  # type: ignore[arg-type]


def test_a_reset_mask_is_read_and_checked() -> None:
    mask = np.array([True, False])
    taken = chosen(mask, 2)
    assert taken.tolist() == [True, False]
    taken[:] = False
    assert mask.tolist() == [True, False]
    assert chosen(None, 2).all()
    for wrong in ([True, False], np.array([1, 0])):
        with pytest.raises(TypeError, match="reset_mask"):
            chosen(wrong, 2)
    for wrong in (np.array([True]), np.zeros(2, dtype=bool), np.ones((2, 1), dtype=bool)):
        with pytest.raises(ValueError, match="reset_mask"):
            chosen(wrong, 2)
