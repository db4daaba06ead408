"""Actions: the heads, which of them an op reads, and that nothing malformed comes in."""

import numpy as np
import pytest

from esper_env import HEADS_READ, READS, ActionLayout, Head, Op, encode

LAYOUT = ActionLayout(3, 13)


def test_the_heads_are_those_of_the_rules_in_that_order() -> None:
    names = ["slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve", "op"]
    assert [head.name.lower() for head in Head] == names
    assert LAYOUT.nvec.tolist() == [3, 13, 4, 3, 3, 4, 5, 6]
    parts = [LAYOUT.part(head) for head in Head]
    assert np.concatenate([np.arange(41)[part] for part in parts]).tolist() == list(range(41))
    assert [part.stop - part.start for part in parts] == LAYOUT.nvec.tolist()


def test_the_table_of_heads_an_op_reads_is_that_of_the_rules() -> None:
    readers = {
        "slot": {"GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE"},
        "blueprint": {"GERMINATE"},
        "style": {"GERMINATE"},
        "tempo": {"GERMINATE"},
        "alpha_target": {"GERMINATE", "SET_ALPHA_TARGET"},
        "alpha_speed": {"SET_ALPHA_TARGET", "PRUNE"},
        "alpha_curve": {"SET_ALPHA_TARGET", "PRUNE"},
    }
    for head in list(Head)[:-1]:
        assert {op.name for op in Op if head in HEADS_READ[op]} == readers[head.name.lower()]
        assert {op.name for op in Op if READS[op, head]} == readers[head.name.lower()]
    assert READS[:, Head.OP].all()
    with pytest.raises(ValueError, match="read-only"):
        READS[0, 0] = True


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_well_formed_actions_of_any_integer_dtype_come_back_as_int64(dtype: type) -> None:
    highest = (LAYOUT.nvec - 1).astype(dtype)
    checked = LAYOUT.check([highest, highest * 0], 2)
    assert checked.dtype == np.int64
    assert checked.tolist() == [[2, 12, 3, 2, 2, 3, 4, 5], [0] * 8]
    decoded = LAYOUT.decode(checked)
    assert [int(getattr(decoded, head.name.lower())[0]) for head in Head] == checked[0].tolist()


@pytest.mark.parametrize("dtype", [np.float64, bool, object, str])
def test_a_dtype_that_is_no_integer_is_refused_by_name(dtype: type) -> None:
    with pytest.raises(ValueError, match="dtype"):
        LAYOUT.check(np.zeros((2, 8), dtype=dtype), 2)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8), (2, 7), (2, 9), (2, 8, 1), ()])
def test_a_wrong_shape_is_refused_with_the_right_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 8\) is required"):
        LAYOUT.check(np.zeros(shape, dtype=int), 2)


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("low", [True, False])
def test_a_value_outside_its_head_is_refused_with_environment_head_and_range(head: Head, low: bool) -> None:
    actions = np.zeros((2, 8), dtype=int)
    size = LAYOUT.nvec[head]
    actions[1, head] = -1 if low else size
    name = head.name.lower()
    with pytest.raises(
        ValueError, match=f"environment 1: {name} is {actions[1, head]}, allowed are 0 to {size - 1}"
    ):
        LAYOUT.check(actions, 2)


def test_encode_puts_every_head_in_its_place_and_leaves_the_rest_canonical() -> None:
    every = encode(Op.GERMINATE, slot=2, blueprint=7, style=3, tempo=1, alpha_target=2)
    assert every.tolist() == [2, 7, 3, 1, 2, 0, 0, Op.GERMINATE]
    assert encode(Op.PRUNE, slot=1, alpha_speed=3, alpha_curve=4).tolist() == [1, 0, 0, 0, 0, 3, 4, Op.PRUNE]
    assert encode(Op.WAIT).tolist() == [0] * 8


@pytest.mark.parametrize("op", Op)
def test_encode_refuses_heads_that_the_op_does_not_read(op: Op) -> None:
    for head in Head:
        name = head.name.lower()
        if READS[op, head] and head != Head.OP:
            assert encode(op, **{name: 1})[head] == 1
        else:
            # `op` is the name of encode's own argument.
            error = TypeError if head == Head.OP else ValueError
            with pytest.raises(error, match=name):
                encode(op, **{name: 1})
    with pytest.raises(ValueError, match=f"{op.name} does not read the head 'colour'"):
        encode(op, colour=1)
