"""Either kernels join modules to a value as `slots.blend` says, row by row; and norms, means and factors."""

import pytest
import torch
import torch.nn.functional as F

from esper_env import Style
from esper_env.engine.kernels import build
from esper_env.engine.kernels.kernels import GroupNorm, Rows, Share
from esper_env.engine.kernels.native import NativeKernels
from esper_env.engine.kernels.torch_kernels import TorchKernels
from esper_env.slots.blend import blend

CPU = torch.device("cpu")
KERNELS = {"torch": TorchKernels({}, "channels_last"), "native": NativeKernels()}
SHAPES = [(1, 1, 1, 1), (5, 4, 6, 8), (3, 7, 5, 3), (40, 16, 16, 12)]
"""Samples, height, width, channels; the last so large that a row is the work of several tasks."""


@pytest.fixture(scope="module", autouse=True)
def library():
    build.build()
    assert build.load()


def drawn(*sizes, dtype=torch.float64):
    random = torch.Generator().manual_seed(sum(sizes))
    return torch.randn(*sizes, generator=random, dtype=torch.float64).to(dtype)


def assert_near(found, wanted, bound=1e-12):
    for own, other in zip(found, wanted, strict=True):
        assert (own - other).abs().max() <= bound * (1 + other.abs().max())


class Slot:
    """Six rows: 1 and 2 gated, 4, 0 and 5 added or multiplied, 3 without a module."""

    groups = ((1, 2), (4, 0, 5))
    styles = ((Style.GATED, Style.GATED), (Style.LINEAR_MULTIPLY, Style.LINEAR_ADD, Style.LINEAR_MULTIPLY))

    def __init__(self, shape, detach):
        self.detach = detach
        self.x = drawn(6, *shape).requires_grad_()
        self.factors = [drawn(len(at), *shape).requires_grad_() for at in self.groups]
        self.gate = drawn(2, shape[0], 1, 1, 1).requires_grad_()
        self.alphas = [0.1 + drawn(len(at), 1, 1, 1, 1).square() for at in self.groups]

    @property
    def leaves(self):
        return [self.x, *self.factors, self.gate]

    def by(self, kernels):
        """In the order of the groups' rows, some of which lie one after another."""
        rows = [Rows.of(at, CPU) for at in self.groups]
        x, values = kernels.fork(self.x, rows)
        sources = [h.detach() if self.detach else h for h in values]
        ds = [torch.sin(h * factor) for h, factor in zip(sources, self.factors, strict=True)]
        multiplies = torch.tensor([True, False, True])[:, None, None, None, None]
        return kernels.blend(x, [
            Share(rows[0], values[0], ds[0], self.alphas[0], self.gate.sigmoid(), None),
            Share(rows[1], values[1], ds[1], self.alphas[1], None, multiplies),
        ])  # fmt: skip

    def plain(self):
        out = list(self.x)
        for group, at in enumerate(self.groups):
            for index, row in enumerate(at):
                h = self.x[row]
                d = torch.sin((h.detach() if self.detach else h) * self.factors[group][index])
                gate = self.gate[index].sigmoid() if group == 0 else None
                alpha = float(self.alphas[group][index])
                out[row] = blend(h, d, alpha, self.styles[group][index], gate)
        return torch.stack(out)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_modules_join_the_value_as_in_one_network(name, shape, detach):
    slot = Slot(shape, detach)
    dy = drawn(6, *shape)
    mine, theirs = slot.by(KERNELS[name]), slot.plain()
    found, wanted = (torch.autograd.grad(y, slot.leaves, dy) for y in (mine, theirs))
    assert_near([mine, *found], [theirs, *wanted])
    assert torch.equal(mine[3], slot.x[3])
    with torch.no_grad():
        assert torch.equal(slot.by(KERNELS[name]), mine)


@pytest.mark.parametrize("name", KERNELS)
def test_what_came_from_above_is_not_written_to(name):
    """The gradient of a slot's value may belong to others as well."""
    slot = Slot((2, 3, 3, 4), detach=False)
    dy = drawn(6, 2, 3, 3, 4)
    before = dy.clone()
    torch.autograd.grad(slot.by(KERNELS[name]), slot.leaves, dy)
    assert torch.equal(dy, before)


@pytest.mark.parametrize("name", KERNELS)
def test_a_module_that_is_not_finite_spoils_its_row_alone(name):
    slot = Slot((2, 3, 3, 4), detach=False)
    with torch.no_grad():
        slot.factors[1][1] = torch.nan
    y = slot.by(KERNELS[name])
    gradient = torch.autograd.grad(y, slot.x, torch.ones_like(y))[0]
    for each in (y, gradient):
        assert each[0].isnan().all()
        assert each[1:].isfinite().all()


def test_wrong_shares_are_refused():
    x, d, alpha = drawn(2, 3, 4, 4, 5), drawn(1, 3, 4, 4, 5), drawn(1, 1, 1, 1, 1)
    kernels, rows = KERNELS["native"], Rows.of([1], CPU)
    for share, message in (
        (Share(rows, d, d[:, :2], alpha, None, None), "share of 1 rows has shape"),
        (Share(rows, d, d.float(), alpha, None, None), "of Float, x has"),
        (Share(rows, d, d, alpha.repeat(2, 1, 1, 1, 1), None, None), "alpha has shape"),
        (Share(rows, d, d, alpha, drawn(1, 2, 1, 1, 1), None), "gate has shape"),
        (Share(rows, d, d, alpha, drawn(1, 3, 1, 1, 1).float(), None), "gate has shape .* of Float"),
        (Share(rows, d[:, :2], d, alpha, None, torch.ones(1, dtype=torch.bool)), "share of 1 rows has shape"),
        (Share(rows, d, d, alpha, None, torch.ones(2, dtype=torch.bool)), "multiplies has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.blend(x, [share])
    with pytest.raises(ValueError, match="row 1 is named twice"):
        kernels.blend(x, [Share(rows, d, d, alpha, None, None)] * 2)
    with pytest.raises(ValueError, match="not a number for each of 5 channels"):
        kernels.group_norm(x, GroupNorm(drawn(2, 4), drawn(2, 5), 1, 1e-5))
    with pytest.raises(IndexError, match="row 2 of 2"):
        kernels.blend(x, [Share(Rows.of([2], CPU), d, d, alpha, None, None)])


@pytest.mark.parametrize("less", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"), [(SHAPES[1], 2), (SHAPES[1], 1), (SHAPES[2], 3), (SHAPES[3], 4)]
)
@pytest.mark.parametrize("name", KERNELS)
def test_group_norm_and_its_gradients_are_those_of_torch(name, shape, groups, less):
    x, weight, bias = (
        drawn(*size).requires_grad_() for size in ((3, *shape), (3, shape[-1]), (3, shape[-1]))
    )
    mine = KERNELS[name].group_norm(x, GroupNorm(weight, bias, groups, 1e-5), less)
    theirs = torch.stack([
        F.group_norm(own.permute(0, 3, 1, 2), groups, factor, offset).permute(0, 2, 3, 1) - less * own
        for own, factor, offset in zip(x, weight, bias, strict=True)
    ])  # fmt: skip
    dy = drawn(3, *shape)
    found, wanted = (torch.autograd.grad(y, (x, weight, bias), dy) for y in (mine, theirs))
    assert_near([mine, *found], [theirs, *wanted], 1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_means_and_factors_by_channel_are_those_of_torch(name, shape):
    x, factor = drawn(3, *shape).requires_grad_(), drawn(3, shape[0], shape[-1]).requires_grad_()
    mean, scaled = KERNELS[name].mean(x), KERNELS[name].scale(x, factor)
    wanted = [x.mean((2, 3)), x * factor[:, :, None, None]]
    assert_near([mean, scaled], wanted)
    for own, other in zip((mean, scaled), wanted, strict=True):
        dy = drawn(*own.shape)
        leaves = (x,) if own is mean else (x, factor)
        assert_near(torch.autograd.grad(own, leaves, dy), torch.autograd.grad(other, leaves, dy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_silu_and_tanh_are_those_of_torch(dtype):
    """Tanh by way of a module that multiplies."""
    kernels, alpha = KERNELS["native"], torch.ones(1, 1, 1, 1, 1, dtype=dtype)
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(-30, 0, 99), torch.zeros(1)]).to(dtype)
    x.requires_grad_()

    def tanh(value):
        d, one = value.view(1, 1, 1, -1, 1), torch.ones(1, 1, 1, len(value), 1, dtype=dtype)
        share = Share(Rows.of([0], CPU), one, d, alpha, None, torch.ones(1, dtype=torch.bool))
        return kernels.blend(one, [share]).flatten() - 1

    near = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    for mine, theirs in ((kernels.sigmoid, torch.sigmoid), (kernels.silu, F.silu), (tanh, torch.tanh)):
        pair = mine(x), theirs(x.double())
        assert torch.allclose(pair[0].double(), pair[1], **near)
        slopes = [torch.autograd.grad(y.sum(), x)[0].double() for y in pair]
        assert torch.allclose(*slopes, **near)
    for odd in (torch.nan, torch.inf, -torch.inf):
        one = torch.full((3,), odd, dtype=dtype)
        assert torch.equal(kernels.sigmoid(one).nan_to_num(9), torch.sigmoid(one).nan_to_num(9))
    assert kernels.silu(torch.tensor([torch.nan], dtype=dtype)).isnan()


def test_a_value_has_the_same_bits_wherever_it_stands():
    """Torch's sigmoid has not: the last few of a tensor go another way."""
    x = torch.randn(5, 13, generator=torch.Generator().manual_seed(0)) * 3
    for function in (KERNELS["native"].sigmoid, KERNELS["native"].silu):
        every = function(x)
        for row in range(5):
            assert torch.equal(function(x[row : row + 1].clone()), every[row : row + 1])


def test_a_second_derivative_is_refused():
    x = drawn(2, 3, 4, 4, 8).requires_grad_()
    native, weight = KERNELS["native"], drawn(2, 8)
    for y in (
        native.mean(x), native.scale(x, drawn(2, 3, 8)), native.silu(x),
        native.group_norm(x, GroupNorm(weight, weight, 2, 1e-5)), native.max_pool(x),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
            torch.autograd.grad(y.sum(), x, create_graph=True)


def test_other_rows_and_threads_change_no_bit():
    sizes = (4, 40, 16, 16, 8), (4, 8), (4, 8)
    x, weight, bias = (drawn(*size, dtype=torch.float32) for size in sizes)
    kernels, before = KERNELS["native"], torch.get_num_threads()

    def results(rows):
        own = [each[rows].clone().requires_grad_() for each in (x, weight, bias)]
        normed = kernels.group_norm(own[0], GroupNorm(own[1], own[2], 2, 1e-5), True)
        y = kernels.scale(normed, 1 + kernels.mean(normed))
        count = len(y)
        for index in range(3):  # gated, multiplied, added
            at = Rows.of(range(count), CPU)
            y, (h,) = kernels.fork(y, [at])
            gate = kernels.sigmoid(kernels.mean(h).mean(2))[..., None, None, None] if index == 0 else None
            multiplies = torch.ones(count, dtype=torch.bool) if index == 1 else None
            y = kernels.blend(y, [Share(at, h, h * 0.7, torch.full((count, 1), 0.3), gate, multiplies)])
        return [y, *torch.autograd.grad(y, own, torch.ones_like(y))]

    try:
        torch.set_num_threads(2)
        every = results(slice(None))
        torch.set_num_threads(1)
        alone = results(slice(2, 3))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[2:3], own) for one, own in zip(every, alone, strict=True))
