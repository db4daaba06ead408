"""The C++ convolutions compute what torch computes row by row; other rows and threads change no bit."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esper_env.engine.kernels import build
from esper_env.engine.kernels.kernels import BatchNorm, GroupNorm
from esper_env.engine.kernels.native import NativeKernels

SHAPES = {  # rows, samples, height, width, channels, features, side
    "cifar": (2, 9, 32, 32, 3, 8, 3), "second": (1, 5, 16, 16, 8, 16, 3), "wide": (2, 11, 8, 8, 16, 32, 3),
    "micro": (3, 70, 4, 4, 8, 8, 3), "small": (2, 6, 16, 16, 3, 4, 3), "pointwise": (2, 6, 8, 8, 12, 24, 1),
    "pixel": (2, 3, 1, 1, 64, 64, 1), "odd": (2, 7, 7, 5, 2, 6, 3), "long": (1, 2, 33, 17, 12, 3, 3),
    "five": (2, 12, 5, 9, 6, 7, 5), "one": (1, 1, 3, 3, 1, 1, 3), "line": (2, 2, 1, 20, 3, 64, 3),
}  # fmt: skip
NORMS = ("none", "batch", "running", "group")
EPS, MOMENTUM = 1e-5, 0.1
ROUNDING = 1e-7
"""Of a sum, relative; half a unit in the last place is 6e-8. One float sum for a part of a row: 1.4e-7."""


@pytest.fixture(scope="module", autouse=True)
def library():
    build.build()
    assert build.load()


class Case:
    """Values of one unit and what it does."""

    def __init__(
        self, shape, norm="batch", relu=True, bias=False, dtype=torch.float64, rows=None, pool=False
    ):
        own, samples, height, width, channels, features, side = SHAPES[shape]
        rows = rows or own
        random = torch.Generator().manual_seed(rows * 31 + samples)

        def draw(*size):
            return torch.randn(*size, generator=random, dtype=torch.float64).to(dtype)

        self.norm, self.relu, self.pool = norm, relu, pool
        self.groups = 3 if features % 3 == 0 else 1
        self.x = draw(rows, samples, height, width, channels)
        size = features * channels * side * side
        # As in an engine, where a row holds all parameters of a network.
        flat = draw(rows, size + 7) / (channels * side * side) ** 0.5
        self.weight = flat[:, 3 : 3 + size].view(rows, features, channels, side, side)
        self.bias = draw(rows, features) if bias else None
        self.gamma, self.beta = 1 + 0.3 * draw(rows, features), draw(rows, features)
        self.mean, self.var = draw(rows, features), 0.5 + draw(rows, features) ** 2
        down = 2 if pool else 1
        self.dy = draw(rows, samples, height // down, width // down, features)

    def tensors(self):
        normed = [] if self.norm == "none" else [self.gamma, self.beta]
        return [self.x, self.weight, *([] if self.bias is None else [self.bias]), *normed]

    def rows(self, rows):
        """The same for these rows alone."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(part, name, value[rows].clone())
        return part

    def of_kernels(self):
        if self.norm == "none":
            return None
        if self.norm == "group":
            return GroupNorm(self.gamma, self.beta, self.groups, EPS)
        training = self.norm == "batch"
        return BatchNorm(self.gamma, self.beta, self.mean, self.var, MOMENTUM, EPS, training)

    def plain(self, row):
        """One row in torch's functions, channels first."""
        x = self.x[row].permute(0, 3, 1, 2)
        bias = None if self.bias is None else self.bias[row]
        z = F.conv2d(x, self.weight[row], bias, padding=self.weight.shape[-1] // 2)
        if self.norm == "group":
            z = F.group_norm(z, self.groups, self.gamma[row], self.beta[row], EPS)
        elif self.norm != "none":
            training = self.norm == "batch"
            statistics = self.mean[row], self.var[row], self.gamma[row], self.beta[row]
            z = F.batch_norm(z, *statistics, training, MOMENTUM, EPS)
        z = z.relu() if self.relu else z
        return (F.max_pool2d(z, 2) if self.pool else z).permute(0, 2, 3, 1)

    def native(self):
        norm = self.of_kernels()
        return NativeKernels().conv(self.x, self.weight, self.bias, norm, self.relu, self.pool)


def results(case, run):
    """Output, running statistics and gradients."""
    case = case.rows(slice(None))
    for tensor in case.tensors():
        tensor.requires_grad_()
    y = run(case)
    gradients = torch.autograd.grad(y, case.tensors(), case.dy)
    return [y.detach(), case.mean, case.var, *gradients]


def ours(case):
    return results(case, Case.native)


def expected(case):
    return results(case, lambda own: torch.stack([own.plain(row) for row in range(len(own.x))]))


def assert_near(found, wanted, bound):
    for own, other in zip(found, wanted, strict=True):
        assert (own - other).abs().max() <= bound * (1 + other.abs().max())


def assert_same(found, wanted):
    for own, other in zip(found, wanted, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("relu", "bias"), [(True, False), (False, True)])
def test_a_unit_and_its_gradients_are_those_of_torch(shape, norm, relu, bias):
    case = Case(shape, norm, relu, bias)
    assert_near(ours(case), expected(case), 1e-9 if bias else 1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "shape", ["cifar", "second", "wide", "micro", "small", "pointwise", "odd", "long", "five"]
)
def test_in_single_precision_a_unit_is_near_torch_in_double(shape, norm):
    single, double = Case(shape, norm, dtype=torch.float32), Case(shape, norm)
    for name, value in vars(double).items():
        if isinstance(value, torch.Tensor):
            setattr(double, name, getattr(single, name).double())
    # The smallest values may pass the ReLU in one precision and not in the other.
    single.relu = double.relu = False
    assert_near(ours(single), expected(double), 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_without_gradients_the_values_are_the_same(norm):
    case = Case("second", norm)
    wanted = expected(case)[0]
    with torch.no_grad():
        found = NativeKernels().conv(case.x, case.weight, case.bias, case.of_kernels(), case.relu)
    assert_near([found], [wanted], 1e-12)


def test_batch_norm_far_from_zero_loses_no_digits():
    case = Case("wide", bias=True)
    case.bias += 1e6
    assert_near(ours(case)[:1], expected(Case("wide", bias=True))[:1], 1e-8)


def test_running_statistics_are_those_of_a_module_over_steps():
    case, modules = Case("small", dtype=torch.float32), [nn.BatchNorm2d(4) for _ in range(2)]
    case.mean.zero_(), case.var.fill_(1.0), case.gamma.fill_(1.0), case.beta.zero_()
    for _ in range(3):
        NativeKernels().conv(case.x, case.weight, None, case.of_kernels(), True)
        for row, module in enumerate(modules):
            module(F.conv2d(case.x[row].permute(0, 3, 1, 2), case.weight[row], padding=1))
        case.x += 1
    for row, module in enumerate(modules):
        assert_near([case.mean[row], case.var[row]], [module.running_mean, module.running_var], 1e-6)


def test_only_wanted_gradients_are_made():
    case = Case("second")
    whole = ours(case)
    for wanted in range(len(case.tensors())):
        own = case.rows(slice(None))
        tensor = own.tensors()[wanted].requires_grad_()
        y = NativeKernels().conv(own.x, own.weight, own.bias, own.of_kernels(), own.relu)
        assert torch.equal(torch.autograd.grad(y, tensor, own.dy)[0], whole[3 + wanted])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", ["cifar", "micro", "odd"])
def test_a_pool_that_is_taken_along_has_the_bits_of_one_apart(shape, norm):
    found = []
    for pool in (True, False):
        case = Case(shape, norm, dtype=torch.float32, pool=True)
        leaves = [tensor.requires_grad_() for tensor in case.tensors()]
        y = NativeKernels().conv(case.x, case.weight, case.bias, case.of_kernels(), True, pool)
        y = y if pool else NativeKernels().max_pool(y)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, case.dy), case.mean, case.var])
    assert all(torch.equal(along, apart) for along, apart in zip(*found, strict=True))


def test_rows_may_share_their_samples():
    case = Case("cifar")
    case.x = case.x[:1].expand(2, -1, -1, -1, -1)
    found = NativeKernels().conv(case.x, case.weight, None, case.of_kernels(), True)
    assert_near([found], expected(case)[:1], 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", ["cifar", "wide", "micro", "odd"])
def test_a_row_alone_has_the_bits_it_has_among_others(shape, norm, dtype, pool):
    case = Case(shape, norm, dtype=dtype, rows=8, pool=pool)
    among = ours(case)
    for row in (0, 5):
        assert_same(ours(case.rows(slice(row, row + 1))), [each[row : row + 1] for each in among])


@pytest.mark.parametrize("shape", ["cifar", "micro", "one"])
def test_the_number_of_threads_changes_no_bit(shape):
    case = Case(shape, dtype=torch.float32, rows=3)
    alone = ours(case)
    torch.set_num_threads(2)
    try:
        assert_same(ours(case), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(norm, value):
    case = Case("second", norm, dtype=torch.float32, rows=3)
    clean = ours(case)
    case.x[1, 2, 3, 3, 0] = value
    case.weight[1, 0, 0, 0, 0] = value
    spoiled = ours(case)
    assert not spoiled[0][1].isfinite().all()
    assert not spoiled[4][1].isfinite().all()
    assert_same([each[[0, 2]] for each in spoiled], [each[[0, 2]] for each in clean])


def test_what_does_not_fit_is_refused_with_its_shape():
    case, kernels = Case("second"), NativeKernels()
    with pytest.raises(ValueError, match=r"weight has shape \[1, 16, 7, 3, 3\]"):
        kernels.conv(case.x, case.weight[:, :, :7], None, None, True)
    with pytest.raises(ValueError, match="weight is Float, x is Double"):
        kernels.conv(case.x, case.weight.float(), None, None, True)
    with pytest.raises(ValueError, match="groups=3 do not divide 16"):
        kernels.conv(
            case.x, case.weight, None, replace(GroupNorm(case.gamma, case.beta, 1, EPS), groups=3), True
        )
    with pytest.raises(ValueError, match="one value per channel has no variance"):
        kernels.conv(case.x[:, :1, :1, :1], case.weight, None, case.of_kernels(), True)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        kernels.max_pool(case.x[:, :, :1])
    with pytest.raises(ValueError, match="at least 2 x 2"):
        kernels.conv(case.x[:, :, :1], case.weight, None, None, True, pool=True)


def test_a_second_derivative_is_refused():
    case = Case("one", "none")
    y = NativeKernels().conv(case.x, case.weight.requires_grad_(), None, None, False)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(y.sum(), case.weight, create_graph=True)


@pytest.mark.parametrize("depthwise", [False, True])
def test_long_sums_lose_little_to_rounding(depthwise):
    """Of 65,536 products that are not 0 on average: their gradient in float32 against float64."""
    random = torch.Generator().manual_seed(0)
    x, dy = (1 + torch.randn(1, 256, 16, 16, 4, generator=random) for _ in range(2))
    shape = (1, 4, 1, 3, 3) if depthwise else (1, 4, 4, 3, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        weight = torch.zeros(shape, dtype=dtype, requires_grad=True)
        kernels = NativeKernels()
        own = x.to(dtype)
        y = kernels.depthwise(own, weight) if depthwise else kernels.conv(own, weight, None, None, False)
        found.append(torch.autograd.grad(y, weight, dy.to(dtype))[0].double())
    off = ((found[0] - found[1]) / found[1]).abs()
    assert off.max() < ROUNDING
