"""Any mixture of ops, saves, restores, faults and resets, against one environment in plain Python each."""

import copy
import io
from dataclasses import dataclass
from functools import partial
from math import isclose
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from agreement import check, row_bits
from breakable import SETTINGS, made, rules_of
from gymnasium.error import ResetNeeded
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from numpy.typing import NDArray
from oracle import PRESENT
from world import FAULTS, SHOWN, World

from esper_env import Op, Stage, encode

WAIT = encode(Op.WAIT)
Heads = tuple[int, ...]
ENV = st.integers(0, 1)
HEADS = st.tuples(*(st.integers(0, n - 1) for n in (6, 13, 4, 3, 3, 4, 5)))
LAWFUL = st.sampled_from((True, True, True, False))


@dataclass
class Saved:
    """What `get_state` gave, and the plain world as it was then."""

    env: int
    state: dict[str, Any]
    world: World

    def __repr__(self) -> str:
        return f"<state of {self.env} after epoch {self.world.epoch}>"


def playable(machine: "Machine") -> bool:
    return not machine.stuck


class Machine(RuleBasedStateMachine):
    """Two environments in a batch, one of them by itself as well, and the plain worlds that they must be."""

    states = Bundle("states")
    seen: ClassVar[set[str]] = set()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.env, self.mode, self.plain = made(name, 2), SETTINGS[name][0]["autoreset_mode"], rules_of(name)
        self.alone = made(name, 1)
        self.faults: list[list[str]] = [[], []]
        self.seeds: dict[tuple[int, int], int] = {}

    @initialize(seed=st.integers(0, 3), twin=ENV, heads=HEADS, epochs=st.integers(0, 16))
    def begin(self, seed: int, twin: int, heads: Heads, epochs: int) -> None:
        self.twin = twin
        self.worlds = [World(self.plain, (seed + e, 0)) for e in range(2)]
        self.compare(*self.env.reset(seed=seed), self.alone.reset(seed=seed + twin))
        self.grow((0, 1), heads, epochs)

    @property
    def stuck(self) -> bool:
        return self.mode == "Disabled" and any(world.over for world in self.worlds)

    def act(self, e: int, op: Op, heads: Heads, lawful: bool) -> None:
        """Play an op in one environment: some way that the masks allow, if there is one, or any way."""
        masks, actions = self.env._masks, np.tile(WAIT, (2, 1))
        allowed = masks.blueprint_slot[e] if op == Op.GERMINATE else masks.op_slot[e, op][:, None]
        cells, meant = np.argwhere(allowed), 2 if op == Op.GERMINATE else 1
        actions[e] = (heads[0] % allowed.shape[0], *heads[1:], op)
        lawful = lawful and len(cells) > 0 and not self.worlds[e].over
        if lawful:
            actions[e, :meant] = cells[heads[1] % len(cells)][:meant]
        assert self.step(actions)[e] or not lawful, f"{op.name} was masked in"

    @precondition(playable)
    @rule(e=ENV, heads=HEADS, lawful=LAWFUL)
    def germinate(self, e: int, heads: Heads, lawful: bool) -> None:
        self.act(e, Op.GERMINATE, heads, lawful)

    @precondition(playable)
    @rule(e=ENV, heads=HEADS, lawful=LAWFUL)
    def advance(self, e: int, heads: Heads, lawful: bool) -> None:
        self.act(e, Op.ADVANCE, heads, lawful)

    @precondition(playable)
    @rule(e=ENV, heads=HEADS, lawful=LAWFUL)
    def set_alpha_target(self, e: int, heads: Heads, lawful: bool) -> None:
        self.act(e, Op.SET_ALPHA_TARGET, heads, lawful)

    @precondition(playable)
    @rule(e=ENV, heads=HEADS, lawful=LAWFUL)
    def prune(self, e: int, heads: Heads, lawful: bool) -> None:
        self.act(e, Op.PRUNE, heads, lawful)

    @precondition(playable)
    @rule(e=ENV, heads=HEADS, lawful=LAWFUL)
    def fossilize(self, e: int, heads: Heads, lawful: bool) -> None:
        self.act(e, Op.FOSSILIZE, heads, lawful)

    @precondition(playable)
    @rule(epochs=st.integers(1, 6))
    def wait(self, epochs: int) -> None:
        for _ in range(epochs):
            if not self.stuck:
                self.step(np.tile(WAIT, (2, 1)))

    @precondition(playable)
    @rule(who=st.sampled_from(((0,), (1,), (0, 1))), heads=HEADS, epochs=st.integers(1, 14))
    def grow(self, who: tuple[int, ...], heads: Heads, epochs: int) -> None:
        """Get a module into HOLDING or beyond, so that more than the beginning of a life is seen."""
        for _ in range(epochs):
            if not self.stuck:
                self.step(np.array([self.eager(e, heads) if e in who else WAIT for e in range(2)]))

    def eager(self, e: int, heads: Heads) -> NDArray[np.int64]:
        """Advance what can, commit (or not), bring alpha to 1, plant where nothing grows, else wait."""
        legal, slots = self.env._masks.op_slot[e], self.worlds[e].slots
        faint = [s for s, m in enumerate(slots) if legal[Op.SET_ALPHA_TARGET, s] and m.alpha < 1]
        if legal[Op.ADVANCE].any():
            return encode(Op.ADVANCE, slot=int(legal[Op.ADVANCE].argmax()))
        if legal[Op.FOSSILIZE].any() and heads[6] % 2 == 0:
            return encode(Op.FOSSILIZE, slot=int(legal[Op.FOSSILIZE].argmax()))
        if faint:
            return encode(Op.SET_ALPHA_TARGET, slot=faint[0], alpha_target=2, alpha_speed=heads[5])
        if legal[Op.GERMINATE].any() and not any(m.stage in PRESENT[:3] for m in slots):
            cells = np.argwhere(self.env._masks.blueprint_slot[e])
            slot, blueprint = cells[(heads[0] + 6 * heads[1]) % len(cells)].tolist()
            return encode(Op.GERMINATE, slot=slot, blueprint=blueprint, style=heads[2], alpha_target=heads[4])
        return WAIT

    @precondition(playable)
    @rule(seed=st.integers(0, 99), epochs=st.integers(1, 4))
    def wander(self, seed: int, epochs: int) -> None:
        """What is sampled from the masks is legal, in every environment."""
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            if not self.stuck:
                assert self.step(self.env.sample_valid(rng)).all()

    @rule(e=ENV, fault=st.sampled_from(FAULTS), epochs=st.sampled_from((1, 1, 5)))
    def inject(self, e: int, fault: str, epochs: int) -> None:
        self.faults[e] = [fault] * epochs

    @precondition(lambda self: not self.stuck and any(m.live for world in self.worlds for m in world.slots))
    @rule(fault=st.sampled_from(("a weight is nan", *SHOWN)), heads=HEADS)
    def break_what_is_blended(self, fault: str, heads: Heads) -> None:
        e = [any(module.live for module in world.slots) for world in self.worlds].index(True)
        self.inject(e, fault, 1)
        self.act(e, Op.WAIT, heads, lawful=False)

    @precondition(lambda self: not self.stuck and max(self.good_epochs()) >= self.plain.min_window)
    @rule(heads=HEADS, epochs=st.integers(1, 4))
    def diverge(self, heads: Heads, epochs: int) -> None:
        """Meanwhile it plays on, and may commit what it has."""
        e = int(np.argmax(self.good_epochs()))
        self.inject(e, "loss explodes", epochs)
        self.grow((e,), heads, epochs)

    def good_epochs(self) -> list[int]:
        return [len(world.good_losses) for world in self.worlds]

    @rule(e=ENV, target=states, to_file=st.booleans())
    def save(self, e: int, to_file: bool) -> Saved:
        """An episode that has just ended first of all."""
        e = next((ended for ended, world in enumerate(self.worlds) if world.over), e)
        state = self.env.get_state(e)
        if to_file:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        return Saved(e, state, self.copied(self.worlds[e]))

    @rule(e=ENV, saved=states)
    def restore(self, e: int, saved: Saved) -> None:
        other = row_bits(self.env, 1 - e)
        first = self.env.set_state(e, saved.state)
        assert row_bits(self.env, 1 - e) == other
        self.worlds[e], self.faults[e] = self.copied(saved.world), []
        self.compare(*first, self.alone.set_state(0, self.env.get_state(self.twin)))
        self.seen.add("restored")

    @precondition(lambda self: any(world.over or world.epoch > 15 for world in self.worlds))
    @rule(e=ENV, seed=st.none() | st.integers(0, 3))
    def reset_one(self, e: int, seed: int | None) -> None:
        other, only = row_bits(self.env, 1 - e), {"reset_mask": np.arange(2) == e}
        seeds = [seed if a == e else None for a in range(2)]
        first = self.env.reset(seed=seeds, options=only)
        assert row_bits(self.env, 1 - e) == other
        self.worlds[e] = self.worlds[e].next() if seed is None else World(self.plain, (seed, 0))
        self.faults[e] = []
        self.compare(*first, self.alone.reset(seed=seed) if e == self.twin else None)

    @precondition(lambda self: self.stuck)
    @rule()
    def a_finished_environment_refuses_to_go_on(self) -> None:
        with pytest.raises(ResetNeeded):
            self.env.step(np.tile(WAIT, (2, 1)))

    def copied(self, world: World) -> World:
        return copy.deepcopy(world, {id(self.plain): self.plain, id(self.plain.clocks): self.plain.clocks})

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """One step of everything; (env,): which actions were legal."""
        over = [world.over for world in self.worlds]
        faults = [None if over[e] or not queue else queue.pop(0) for e, queue in enumerate(self.faults)]
        self.env._engine.faults, self.alone._engine.faults = faults, [faults[self.twin]]
        obs, reward, terminated, truncated, info = self.env.step(actions)
        first, *rest, its_info = self.alone.step(actions[[self.twin]])
        assert [value.item() for value in rest] == [v[self.twin] for v in (reward, terminated, truncated)]
        for e, world in enumerate(self.worlds):
            slot, blueprint, *_, op = actions[e].tolist()
            valid = over[e] or world.legal(Op(op).name, slot, blueprint)
            assert info["action_valid"][e] == valid
            paid = {} if over[e] else world.play(actions[e].tolist(), faults[e])
            world = self.worlds[e] = world.next() if over[e] else world
            assert [terminated[e], truncated[e]] == [world.terminated, world.truncated]
            for name in self.env._terms:
                assert isclose(info["reward_terms"][name][e], paid.get(name, 0.0), abs_tol=1e-9), name
            assert isclose(reward[e], sum(paid.values()), abs_tol=1e-9)
            self.count(world, Op(op), valid)
        self.end(info)
        self.compare(obs, info, (first, its_info))
        return info["action_valid"]

    def end(self, info: dict[str, Any]) -> None:
        """What the last step says of the episodes that it ended."""
        at_once = self.mode == "SameStep" and any(world.over for world in self.worlds)
        shown = info["final_info"] if at_once else info
        for e, world in enumerate(self.worlds):
            for name in ("harvest_accuracy", "test_accuracy"):
                assert shown[f"_{name}"][e] == world.terminated
                assert not world.terminated or isclose(shown[name][e], world.harvested)
            if world.terminated:
                assert not shown["op_slot_mask"][e, 1:].any()
            if at_once and world.over:
                self.worlds[e] = world.next()

    def count(self, world: World, op: Op, valid: bool) -> None:
        """What these examples have been through."""
        lost = world.panicked and any(m.stage == "PRUNED" and m.velocity < 0 for m in world.slots)
        events = {
            f"{op.name} {'played' if valid else 'refused'}": True,
            "ended": world.over,
            "panicked": world.panicked,
            "lost a blended module": lost,
            "bad": world.suspicious > 0,
        }
        self.seen.update(name for name, happened in events.items() if happened)
        self.seen.update(module.stage for module in world.slots)

    def compare(self, obs: NDArray[np.float32], info: dict[str, Any], alone: Any) -> None:
        """Batch, single environment (where it has moved too) and plain worlds say the same."""
        state, twin = self.env._state, self.twin
        assert self.env.observation_space.contains(obs)
        assert row_bits(self.alone, 0) == row_bits(self.env, twin)
        if alone is not None:
            assert alone[0].tobytes() == obs[twin].tobytes()
            assert alone[1]["action_mask"].tobytes() == info["action_mask"][twin].tobytes()
        for e, world in enumerate(self.worlds):
            assert self.seeds.setdefault(world.series, state.seed[e]) == state.seed[e]
            check(world, self.env, e, obs, info)
        assert len(set(self.seeds.values())) == len(self.seeds)


@pytest.mark.parametrize("name", SETTINGS)
def test_ops_saves_restores_faults_and_resets_in_any_order(name: str) -> None:
    Machine.seen.clear()
    events = {stage.name for stage in Stage} | {f"{op.name} played" for op in Op}
    events |= {"ended", "panicked", "lost a blended module", "bad", "restored"}
    # As found: to make a failure shorter takes minutes (add Phase.shrink for that).
    limits = settings(
        max_examples=10, stateful_step_count=30, deadline=None, database=None, phases=[Phase.generate]
    )
    # What is drawn depends on which modules a process has imported, too: hypothesis knows their constants.
    for number in range(5):
        run(seed(number)(partial(Machine, name)), settings=limits)
        if Machine.seen >= events:
            return
    pytest.fail(f"these examples see all of the game but {sorted(events - Machine.seen)}")
