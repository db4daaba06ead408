"""What references ask to be played: where, from which seeds, how often, and nothing twice."""

import leaderboard
import pytest
import torch
from board import references
from board.cells import CELLS, Cell
from board.entrants import AgentSpec, Entrant
from board.instances import find, instances
from board.larger import LargerJob
from board.oracle import ChoiceJob, SearchJob
from board.play import Job
from board.seeds import RANGES, WIDTH
from board.studio import Size, Studio
from board.tuning import TuneJob
from tiny import tiny

from esper_agents.baselines import ScheduleConfig

CELL = Cell(params=3, compute=2)


class Desk:
    """In place of a studio: notes what is asked for, and makes results up."""

    device = "cuda"

    def __init__(self):
        self.asked = []

    def play(self, todo, what):
        self.asked += todo
        return [self.made_up(job) for job in todo]

    def made_up(self, job):
        if isinstance(job, TuneJob):
            return {"static": 0.2, "quality": [0.3] * len(job.plans)}
        if isinstance(job, SearchJob):
            return {"life": {"plantings": [], "found_in": job.cell.id}}
        if isinstance(job, ChoiceJob):
            return {"life": job.lives[-1]}
        names = ("quality", "param_ratio", "flops_ratio", "params", "flops", "length")
        if isinstance(job, LargerJob):
            return {name: [0.5] * len(job.seeds) for name in names} | {"seeds": list(job.seeds)}
        one = dict.fromkeys(names, 0.5) | {"val_quality": [None]}
        return {"episodes": [one | {"seed": seed} for seed in job.seeds]}

    def of(self, kind):
        return [job for job in self.asked if isinstance(job, kind)]


@pytest.fixture
def desk():
    desk = Desk()
    size = Size(seeds=8, others=3, plans=2, search_steps=900)
    chosen, train = (find("T1-data-00"), find("T1-seeds-00")), instances("T1", ["train"])
    desk.rows = references.measure(chosen, CELLS["T1"], train, size, desk)["rows"]
    return desk


def test_schedules_that_are_known_are_candidates_before_what_is_drawn():
    desk, chosen, train = Desk(), (find("T1-data-00"),), instances("T1", ["train"])
    known = [ScheduleConfig(start=start) for start in (5, 6)]
    references.measure(chosen, CELLS["T1"], train, Size(seeds=8, plans=4), desk, known)
    first = desk.of(TuneJob)[0].plans
    assert (list(first[:3]), len(first)) == ([*known, ScheduleConfig()], 4)


def test_what_is_measured_is_played_where_it_was_asked_for_on_seeds_of_its_purpose(desk):
    assert len(desk.rows) == 8
    assert {job.device for job in desk.asked} == {"cuda"}
    purposes = {
        TuneJob: "tuning",
        SearchJob: "search",
        ChoiceJob: "search",
        Job: "reference",
        LargerJob: "reference",
    }
    for kind, purpose in purposes.items():
        for job in desk.of(kind):
            seeds = [job.seed] if kind is TuneJob else job.seeds
            assert all(seed // WIDTH == RANGES[purpose] for seed in seeds)
            assert (job.instance.part == "train") is (kind is TuneJob)


def test_references_that_are_only_shown_play_the_first_of_the_hosts(desk):
    first = {job.instance.id: job.seeds[:3] for job in desk.of(Job) if job.entrant.entry == "oracle"}
    played = {job.entrant.entry: len(job.seeds) for job in desk.of(Job)}
    assert played == {"static": 8, "schedule": 8, "oracle": 8, "heuristic": 3, "random": 3}
    few = [job for job in desk.of(Job) if len(job.seeds) == 3] + desk.of(LargerJob)
    assert len(few) == 2 * 4 * 3
    assert all(job.seeds == first[job.instance.id] for job in few)


def test_a_search_begins_with_what_was_found_under_smaller_budgets(desk):
    begun = {job.cell.id: [life["found_in"] for life in job.lives] for job in desk.of(SearchJob)}
    assert begun == {"1.5x1": [], "1.5x2": ["1.5x1"], "3x1": ["1.5x1"], "3x2": ["1.5x1", "1.5x2", "3x1"]}
    assert {job.settings["steps"] for job in desk.of(SearchJob)} == {900}


def test_the_last_choice_is_among_all_that_was_found_under_budgets_no_larger(desk):
    lives = {job.cell.id: [life["found_in"] for life in job.lives] for job in desk.of(ChoiceJob)}
    assert lives["1.5x1"] == ["1.5x1"]
    assert lives["3x2"] == ["1.5x1", "1.5x2", "3x1", "3x2"]
    searched = {job.instance.id: job.seeds for job in desk.of(SearchJob)}
    assert all(job.seeds == searched[job.instance.id] for job in desk.of(ChoiceJob))


def test_a_static_host_is_played_once_for_all_budgets(desk):
    static = [job for job in desk.of(Job) if job.entrant.entry == "static"]
    assert len(static) == 8
    assert len({job.hash for job in static}) == 2


def test_budgets_do_not_change_what_a_static_host_comes_to(tmp_path):
    found = []
    for cell in (Cell(params=1, compute=1), CELL):
        who = Entrant(entry="static", agent=AgentSpec(algo="wait"))
        played = Job(entrant=who, instance=tiny(), cell=cell, seeds=(1, 2), commitment="00").work(tmp_path)
        found.append([(each["quality"], each["flops"], each["length"]) for each in played["episodes"]])
    assert found[0] == found[1]


def test_equal_jobs_are_played_and_counted_once(tmp_path):
    studio = Studio(tmp_path, 1, None)
    job = TuneJob(instance=tiny("T1-train-00"), cell=CELL, seed=5, plans=(ScheduleConfig(),))
    torch.set_num_threads(2)
    one, other = studio.play([job, job], "twice")
    assert torch.get_num_threads() == 1  # as with many processes
    assert one == other
    assert studio.seconds == one["seconds"]


def test_a_secret_is_not_published_in_place_of_its_hash(tmp_path, capsys):
    with pytest.raises(SystemExit):
        leaderboard.main(["references", "--commitment", "my secret", "--out", str(tmp_path)])
    assert "SHA-256" in capsys.readouterr().err
