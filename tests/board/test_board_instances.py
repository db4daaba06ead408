"""Instances: what is held out is new by construction, and everything can be built and played."""

import json
from argparse import Namespace
from contextlib import closing
from itertools import chain, pairwise

import gymnasium as gym
import numpy as np
import pytest
from board import families
from board.cells import CELLS, Cell
from board.families import Between, OneOf
from board.instances import (
    COUNTS,
    TIERS,
    draw,
    find,
    generator_seeds,
    instances,
    refuse_absent,
    select,
)
from board.listing import main as listing
from board.seeds import RANGES, WIDTH, commitment, evaluation_seeds, public_seeds
from board.trace import world
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from esper_agents.config import build
from esper_agents.curriculum import Curriculum
from esper_agents.environment import EnvironmentConfig, make_world

ALL = [(tier, part) for tier in TIERS for part in COUNTS[tier]]
CHEAP = {
    "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8, "task.val_size": 16,
    "task.train_size": 64, "task.test_size": 16,
}  # fmt: skip


def rules(instance, cell, changes):
    config = EnvironmentConfig(**instance.environment(cell))
    return make_world(config, 1, AutoresetMode.NEXT_STEP, changes=changes).envs


def possible(rule):
    return set(map(str, rule.values)) if isinstance(rule, OneOf) else {str(rule)}


@given(st.sampled_from(ALL), st.sampled_from(ALL), st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_data_set_of_one_part_is_one_of_another(one, other, first, second):
    a, b = (draw(*key, number % 900) for key, number in ((one, first), (other, second)))
    if (one, first % 900) != (other, second % 900) and "task.generator_seed" in a.overrides:
        assert a.overrides["task.generator_seed"] != b.overrides.get("task.generator_seed")
        low, high = generator_seeds(*one)
        assert low <= a.overrides["task.generator_seed"] < high


def test_ranges_of_generator_seeds_do_not_overlap():
    ranges = sorted(generator_seeds(*key) for key in ALL)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert ranges[0][0] > 0  # seed 0 is what everybody has by default


@pytest.mark.parametrize("looks", families.NEW_LOOKS.values(), ids=families.NEW_LOOKS)
def test_new_looks_lie_outside_what_is_trained_on(looks):
    familiar = {path: rule for path, rule in families.FAMILIAR.items() if path in looks}
    pairs = [(looks[path], familiar[path]) for path in looks]
    assert all(isinstance(rule, Between) for rule in chain(*pairs))
    assert all(new.high < old.low or new.low > old.high for new, old in pairs)


OTHER = {"impairment": "host.name", "modality": "host.name", "reach": "horizon"}
"""Axis -> what no agent was trained with."""


@pytest.mark.parametrize(("tier", "part"), [(tier, part) for tier, part in ALL if part in OTHER])
def test_hosts_and_lengths_that_are_held_out_are_never_trained_on(tier, part):
    parts, path = families.FAMILIES[tier], OTHER[part]
    trained, held_out = (
        set().union(*(possible(family[path]) for _, family in parts[name])) for name in ("train", part)
    )
    assert held_out
    assert not trained & held_out


NEW = {
    "seeds": set(),
    "reach": {"horizon"},
    "impairment": {"host.name", "host.slots", "engine.epoch_size"},
}
"""Axis -> what is not drawn as for training. Impaired hosts learn nothing from fewer images."""


@pytest.mark.parametrize(("tier", "part"), [(tier, part) for tier, part in ALL if part in NEW])
def test_an_axis_is_new_in_what_it_is_named_after_alone(tier, part):
    """Data and modality are other tasks, in all of their settings."""
    parts = families.FAMILIES[tier]
    [(_, trained)] = parts["train"]
    for _, family in parts[part]:
        other = {path for path in {*family, *trained} if family.get(path) != trained.get(path)}
        assert other <= NEW[part]


def test_real_images_have_another_host_and_longer_epochs_besides():
    [(_, trained)], [(_, real)] = (families.T2[part] for part in ("train", "data"))
    other = {path for path in {*real, *trained} if real.get(path) != trained.get(path)}
    assert {path for path in other if not path.startswith("task.")} == {"host.name", "engine.epoch_size"}
    assert real["host.name"] == families.FAMILIAR["host.name"]


def apart(one, other):
    """Whether no value that one rule draws is one that the other does."""
    if isinstance(one, Between) and isinstance(other, Between):
        return one.high < other.low or other.high < one.low
    return not possible(one) & possible(other)


@pytest.mark.parametrize("tier", TIERS)
def test_data_that_are_held_out_differ_from_all_that_is_trained_on_in_a_whole_range(tier):
    parts = families.FAMILIES[tier]
    for _, new in parts["data"]:
        for _, trained in parts["train"]:
            data = [path for path in new if path == "task.data" or path.startswith("task.difficulty.")]
            assert any(apart(new[path], trained[path]) for path in data)


@given(st.text(max_size=20), st.sampled_from([each.id for tier in TIERS for each in instances(tier)]))
def test_seeds_for_different_purposes_never_meet(secret, name):
    instance = find(name)
    judged = evaluation_seeds(secret, instance, 40)
    public = {purpose: public_seeds(purpose, instance, 40) for purpose in RANGES if purpose != "evaluation"}
    assert len(set(judged).union(*public.values())) == 160
    assert all(seed // WIDTH == RANGES[p] for p, seeds in public.items() for seed in seeds)
    assert min(judged) >= 2**32  # above what training runs draw
    assert max(judged) < 2**53  # readable wherever JSON is
    assert judged[:7] == evaluation_seeds(secret, instance, 7)


def test_a_secret_decides_the_seeds_and_its_hash_does_not_give_it_away():
    instance = find("T1-data-00")
    assert evaluation_seeds("a", instance, 3) != evaluation_seeds("b", instance, 3)
    assert evaluation_seeds("a", instance, 3) != evaluation_seeds("a", find("T1-data-01"), 3)
    # `printf local | sha256sum`
    assert commitment("local") == "25bf8e1a2393f1108d37029b3df5593236c755742ec93465bbafa9b290bddcf6"


def test_the_tables_of_contents():
    drawn = [each for tier in TIERS for each in instances(tier)]
    assert len({each.id for each in drawn}) == len({each.hash for each in drawn}) == len(drawn)
    assert sum(COUNTS["T1"].values()) == 24
    assert len(select("T1")) == 16
    assert [each.id for each in select("T1", ["reach", "T1-train-03"])] == [
        "T1-reach-00",
        "T1-reach-01",
        "T1-train-03",
    ]
    assert [cell.id for cell in CELLS["T1"]] == ["1.5x1", "1.5x2", "3x1", "3x2"]
    assert all(Cell.of(cell.id) == cell for cell in CELLS["T1"])
    with pytest.raises(ValueError, match="'T1-nothing' is not known: 'held-out'"):
        select("T1", ["T1-nothing"])
    assert [each.id for each in select("T2")] == ["T2-seeds-00", "T2-data-00", "T2-modality-00"]
    with pytest.raises(ValueError, match="tier T2 has no part 'reach': it has"):
        select("T2", ["reach"])
    for wrong in ("big", "ax2", "0.5x1", "1x0", "1.5xnan"):
        with pytest.raises(ValueError, match=f"'{wrong}': PARAMSxCOMPUTE is required"):
            Cell.of(wrong)


def test_an_instance_is_what_its_hash_says():
    instance = draw("T1", "train", 0)
    assert instance == draw.__wrapped__("T1", "train", 0)
    longer = instance.model_copy(update={"overrides": instance.overrides | {"horizon": 999}})
    assert longer.hash != instance.hash


def test_all_can_be_built_and_have_the_same_spaces():
    spaces = set()
    for instance in instances("T1"):
        for cell in CELLS["T1"]:
            with closing(rules(instance, cell, {"engine.name": "null"})) as envs:
                budget = envs.config.budget
                assert (budget.params, budget.compute) == (cell.params, cell.compute)
                assert envs.config.horizon == instance.horizon
                spaces.add((str(envs.single_observation_space), str(envs.single_action_space)))
    assert len(spaces) == 1


@pytest.mark.parametrize("name", ["T2-train-00", "T2-data-00", "T2-modality-00"])
def test_the_larger_tier_can_be_built(name):
    micro = gym.make_vec("EsperMicro-v0", num_envs=1, engine="null")
    with closing(rules(find(name), CELLS["T2"][0], {"engine.name": "null"})) as envs, closing(micro):
        assert envs.single_observation_space == micro.single_observation_space
        assert envs.single_action_space == micro.single_action_space


@pytest.mark.parametrize("name", ["T1-data-02", "T1-impairment-01", "T1-modality-00"])
def test_some_can_be_played(name):
    with closing(rules(find(name), CELLS["T1"][3], CHEAP)) as envs:
        _, info = envs.reset(seed=public_seeds("search", find(name), 1))
        info = envs.step(envs.sample_valid(np.random.default_rng(0)))[-1]
        assert 0 < info["train_loss"][0] < 10


@pytest.mark.parametrize("tier", TIERS)
def test_one_agent_can_be_trained_on_all_that_is_for_training(tier, tmp_path):
    listing(Namespace(tier=tier, instances=["train"], cells=None, out=tmp_path / "train.json"))
    written = json.loads((tmp_path / "train.json").read_text())
    config = build({"algo": "esper_ppo", "instances": written})
    with Curriculum(config, 1, {"engine.name": "null"}) as worlds:
        assert len(worlds.worlds) == COUNTS[tier]["train"] * len(CELLS[tier])
        budgets = {(w.envs.config.budget.params, w.envs.config.budget.compute) for w in worlds.worlds}
        assert budgets == {(cell.params, cell.compute) for cell in CELLS[tier]}


def test_a_number_beyond_those_of_a_part_would_have_the_data_of_another():
    with pytest.raises(ValueError, match="number"):
        draw("T1", "train", 1_000)


def test_a_world_has_the_budgets_of_its_cell():
    with closing(world(find("T1-reach-01"), CELLS["T1"][0], 2)) as envs:
        assert (envs.num_envs, envs.config.budget.params, envs.config.budget.compute) == (2, 1.5, 1.0)


def test_missing_data_are_named_before_anything_is_played(monkeypatch, tmp_path):
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path))
    refuse_absent(instances("T1"))
    with pytest.raises(FileNotFoundError, match=r"T2-data-00 needs data='cifar10'.*ESPER_DATA_DIR"):
        refuse_absent([find("T2-data-00")])


def test_what_is_written_is_plain():
    for tier in TIERS:
        for instance in instances(tier):
            assert (
                json.loads(json.dumps(instance.environment(CELLS[tier][-1])))["overrides"]["budget.params"]
                == 3
            )
