"""The other C++ kernels compute what torch and the loader compute; kept memory; how the library is built."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esper_env.engine.kernels import build
from esper_env.engine.kernels.kernels import Descent, Gradient
from esper_env.engine.kernels.native import NativeKernels, kept_memory, release_memory
from esper_env.tasks.loader import crop_flip


@pytest.fixture(scope="module", autouse=True)
def library():
    build.build()
    assert build.load()


def assert_near(found, wanted, bound):
    for own, other in zip(found, wanted, strict=True):
        assert (own - other).abs().max() <= bound * (1 + other.abs().max())


def assert_same(found, wanted):
    for own, other in zip(found, wanted, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8, 12, 16, 32])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (7, 9), (16, 16)])
def test_pooling_and_its_gradient_are_those_of_torch_ties_included(height, width, channels):
    random = torch.Generator().manual_seed(channels)
    x = torch.randint(-2, 3, (2, 5, height, width, channels), generator=random).float().relu()
    x[0, 0, 1, 1, 0] = float("nan")
    dy = torch.randn(2, 5, height // 2, width // 2, channels, generator=random)
    x.requires_grad_()
    mine = NativeKernels().max_pool(x)
    theirs = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).view(mine.shape)
    assert torch.equal(mine.nan_to_num(99), theirs.nan_to_num(99))
    assert torch.equal(torch.autograd.grad(mine, x, dy)[0], torch.autograd.grad(theirs, x, dy)[0])


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(
    ("channels", "size"), [(1, (21, 7, 9)), (3, (21, 7, 9)), (8, (40, 16, 16)), (32, (21, 7, 9))]
)
def test_depthwise_convolution_and_its_gradients_are_those_of_torch(channels, size, side):
    random = torch.Generator().manual_seed(side)
    x = torch.randn(3, *size, channels, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        3, channels, 1, side, side, generator=random, dtype=torch.float64, requires_grad=True
    )
    dy = torch.randn(x.shape, generator=random, dtype=torch.float64)
    theirs = torch.stack([
        F.conv2d(own.permute(0, 3, 1, 2), filters, padding=side // 2, groups=channels).permute(0, 2, 3, 1)
        for own, filters in zip(x, weight, strict=True)
    ])  # fmt: skip
    mine = NativeKernels().depthwise(x, weight)
    found, wanted = (torch.autograd.grad(y, (x, weight), dy) for y in (mine, theirs))
    assert_near([mine, *found], [theirs, *wanted], 1e-11)
    alone = NativeKernels().depthwise(x[1:2], weight[1:2])
    assert_same([alone, *torch.autograd.grad(alone, (x, weight), dy[1:2])], [
        mine[1:2], torch.zeros_like(x).index_copy(0, torch.tensor([1]), found[0][1:2]),
        torch.zeros_like(weight).index_copy(0, torch.tensor([1]), found[1][1:2]),
    ])  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_have_the_bits_of_the_loader(dtype, channels):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 9, 11, channels), dtype=torch.uint8, generator=random)
    index = torch.randint(40, (3, 20), generator=random)
    down, right, mirror = (torch.randint(top, (3, 20), generator=random) for top in (7, 7, 2))
    shift, scale = torch.rand(channels, dtype=dtype) * 200, torch.rand(channels, dtype=dtype)
    for crop, picked in (
        (None, images[index.flatten()]),
        ((down, right, mirror),
         crop_flip(images[index.flatten()], 3, down.flatten(), right.flatten(), mirror.flatten())),
    ):  # fmt: skip
        found = NativeKernels().images(images, index, crop, 3, shift, scale)
        assert torch.equal(found, picked.to(dtype).sub(shift).mul(scale).view(found.shape))


def test_an_index_beyond_the_images_is_refused():
    images = torch.zeros(4, 2, 2, 1, dtype=torch.uint8)
    with pytest.raises(IndexError, match="index 4 of 4 images"):
        NativeKernels().images(images, torch.tensor([[0, 4]]), None, 0, torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_an_update_is_one_of_clipped_descent(clip):
    random = torch.Generator().manual_seed(0)
    rows, sizes, starts = 4, (70, 5, 33), (2, 72, 80)
    values = torch.randn(rows, 120, generator=random, dtype=torch.float64)
    momenta, squares = torch.zeros_like(values), torch.ones(rows, 4, dtype=torch.float64)
    lr = torch.tensor([0.1, 0.0, 0.01, 0.2], dtype=torch.float64)
    start, nets = values.clone(), [
        [nn.Parameter(values[row, at : at + size].clone()) for at, size in zip(starts, sizes, strict=True)]
        for row in range(rows)
    ]  # fmt: skip
    optimizers = [
        torch.optim.SGD(net, float(lr[row]), 0.9, weight_decay=0.01) for row, net in enumerate(nets)
    ]
    total = torch.ones(rows, 3, dtype=torch.float64)
    for _ in range(3):
        drawn = [torch.randn(rows, size, generator=random, dtype=torch.float64) for size in sizes]
        gradients = [Gradient(i + 1, starts[i], drawn[i]) for i in range(3)]
        NativeKernels().update(values, momenta, squares, gradients, lr, Descent(0.9, 0.01, clip))
        total += torch.stack([each.square().sum(1) for each in drawn], dim=1)
        for row, optimizer in enumerate(optimizers):
            for parameter, gradient in zip(nets[row], drawn, strict=True):
                parameter.grad = gradient[row].clone()
            nn.utils.clip_grad_norm_(nets[row], clip)
            optimizer.step()
    for at, size, parameters in zip(starts, sizes, zip(*nets, strict=True), strict=True):
        assert_near([values[:, at : at + size]], [torch.stack(parameters)], 1e-12)
        start[:, at : at + size] = values[:, at : at + size]
    assert torch.equal(values, start), "what has no gradient stays"
    assert_near([squares[:, 1:]], [total], 1e-12)
    assert (squares[:, 0] == 1).all()


def test_a_gradient_that_is_not_finite_spoils_its_row_alone():
    values, momenta, squares = torch.ones(3, 8), torch.zeros(3, 8), torch.zeros(3, 1)
    gradient = torch.ones(3, 8)
    gradient[1, 2] = float("nan")
    lr = torch.full((3,), 0.1)
    NativeKernels().update(values, momenta, squares, [Gradient(0, 0, gradient)], lr, Descent(0.9, 0.0, 1.0))
    assert values[1].isnan().all()
    assert values[[0, 2]].isfinite().all()


def test_large_tensors_use_memory_again_where_it_is_kept_and_only_there():
    def place():
        return torch.empty(3 << 20).data_ptr()

    release_memory()
    with kept_memory():
        first = place()
        assert place() == first, "the freed one is used again"
        with kept_memory():
            pass
        assert place() == first
        two = torch.ones(3 << 20), torch.ones(3 << 20)
        assert two[0].data_ptr() != two[1].data_ptr()
        small = torch.empty(10).data_ptr()
    assert small != first
    del two
    assert release_memory() == 2 * 12 * 2**20
    assert release_memory() == 0


def test_kept_memory_never_exceeds_what_was_in_use_by_more_than_a_quarter():
    release_memory()
    with kept_memory():
        for size in range(20):
            torch.empty((2 + size) << 20)
    assert 84 * 2**20 <= release_memory() <= 84 * 2**20 * 5 / 4


def test_without_a_library_nothing_is_loaded_and_without_a_compiler_it_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert not build.path().exists()
    assert not build.load.__wrapped__()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.main() == 0
    assert "no-such-compiler was not found" in capsys.readouterr().out


def test_another_machine_or_other_flags_have_another_library(monkeypatch):
    here = build.path()
    monkeypatch.setattr(build, "_cpu", lambda: "flags: less")
    there = build.path()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    assert len({here, there, build.path()}) == 3
