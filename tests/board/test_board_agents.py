"""What the board's agents are trained on."""

import json

import pytest
from agents.board_agents import ALL, LIBRARY, NULL, OWN, REAL, environments, teachers
from board.canonical import sealed
from board.cells import CELLS
from board.instances import generator_seeds
from made_up_results import references

from esper_agents.config import build


def test_agents_are_trained_on_the_train_part_alone_under_all_budgets():
    found = environments({"engine.name": "null"})
    wanted = [(cell.params, cell.compute) for cell in CELLS["T1"]]
    for each in found:
        blocks = each["overrides"]["budget.params"], each["overrides"]["budget.compute"]
        assert list(zip(*blocks, strict=True)) == wanted
    seeds = {each["overrides"]["task.generator_seed"] for each in found}
    low, high = generator_seeds("T1", "train")
    assert len(found) == len(seeds) == 8
    assert all(config["num_envs"] % len(wanted) == 0 for config in (NULL, REAL))
    assert ALL["eval_episodes"] % len(wanted) == 0
    assert all(low <= seed < high for seed in seeds)


def test_settings_of_all_runs_are_allowed():
    for algo in ("esper_ppo", "maskable_ppo", "maskable_recurrent_ppo", "recurrent_ppo"):
        own = OWN.get(algo, LIBRARY)
        taught = {"teachers": [{}] * len(CELLS["T1"])} if algo == "esper_ppo" else {}
        for values in (NULL | own["null"] | taught, REAL | own["real"]):
            config = build(
                ALL | values | {"algo": algo, "env": "EsperMicro-v0", "instances": environments({})}
            )
            prices = config.instance_configs[0].overrides["reward.mode"]
            assert not {"rent", "compute_rent"} & prices.keys()


def test_teachers_are_the_schedules_of_the_references_in_the_order_of_the_blocks(tmp_path):
    path = references(tmp_path / "table.json", ("T1-data-00",))
    with pytest.raises(
        ValueError, match=r"for \['1.5x1', '1.5x2', '3x1', '3x2'\] in the references, only for \[\]"
    ):
        teachers([path])
    values = json.loads(path.read_text())
    values["plans"] = {cell.id: {"start": number} for number, cell in reversed(list(enumerate(CELLS["T1"])))}
    path.write_text(json.dumps(sealed(values)))
    assert [plan["start"] for plan in teachers([path])] == [0, 1, 2, 3]
    other = references(tmp_path / "other.json", ("T2-seeds-00",))
    other.write_text(json.dumps(sealed(json.loads(other.read_text()) | {"plans": {"3x2": {"start": 9}}})))
    assert [plan["start"] for plan in teachers([other, path])] == [0, 1, 2, 3], "of this tier"
    tuned = tmp_path / "schedules.json"
    tuned.write_text(json.dumps({"plans": {"3x2": {"start": 7}, "1.5x1": {}, "3x1": {}, "1.5x2": {}}}))
    assert [plan["start"] for plan in teachers([path], tuned)] == [0, 0, 0, 7]
    tuned.write_text(json.dumps({"plans": {"3x2": {}}}))
    with pytest.raises(ValueError, match=r"'3x1'\] in .*schedules.json, only for \['3x2'\]"):
        teachers([path], tuned)
    tuned.write_text(json.dumps({"schedule": {}}))
    with pytest.raises(ValueError, match="a schedule for each budgets"):
        teachers([path], tuned)
