"""Which modules are fused, and that nothing else is: whatever is not known runs row by row, as it is."""

import pytest
import torch
from torch import nn

from esper_env.engine.kernels.torch_kernels import TorchKernels
from esper_env.engine.stacked import Run, row_by_row, stacked

ROWS, SAMPLES, SIDE, CHANNELS = 3, 4, 6, 2


def convolution() -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


def repeating() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(convolution(), relu, convolution(), relu)


def tied() -> nn.Module:
    module = nn.Sequential(convolution(), convolution())
    module[1].weight = module[0].weight
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(convolution())
    module[0].register_forward_hook(lambda layer, given, result: 2 * result)
    return module


UNKNOWN = {
    "a layer that is there twice": repeating,
    "a weight that is there twice": tied,
    "a hook": hooked,
    "a linear layer along the width": lambda: nn.Sequential(nn.Linear(SIDE, SIDE), nn.ReLU()),
    "a stride": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, stride=2)),
    "a border of mirrored pixels": lambda: nn.Conv2d(
        CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect"
    ),
    "a layer nobody knows": lambda: nn.Sequential(convolution(), nn.ELU()),
}
KNOWN = {
    "convolution, norm, ReLU, pool": lambda: nn.Sequential(
        convolution(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(1, CHANNELS)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False), nn.SiLU(), convolution()
    ),
    "nested": lambda: nn.Sequential(nn.Sequential(convolution(), nn.ReLU()), nn.Identity(), nn.Sigmoid()),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_fused(name: str) -> None:
    assert stacked(UNKNOWN[name]()) is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_fused_computes_what_each_module_does(name: str, training: bool) -> None:
    torch.manual_seed(0)
    modules = [KNOWN[name]().double().train(training) for _ in range(ROWS)]
    values = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in modules]
    tensors = {key: torch.stack([each[key].detach() for each in values]) for key in values[0]}
    x = torch.randn(ROWS, SAMPLES, SIDE, SIDE, CHANNELS, dtype=torch.float64)
    run = Run(TorchKernels({}, "channels_last"), training, lambda row: torch.no_grad())
    fused = stacked(modules[0])
    assert fused is not None
    expected = torch.stack(
        [each(own.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for each, own in zip(modules, x, strict=True)]
    )
    torch.testing.assert_close(fused(run, {k: v.clone() for k, v in tensors.items()}, x), expected)
    by_row = row_by_row(KNOWN[name]().double())(run, {k: v.clone() for k, v in tensors.items()}, x)
    torch.testing.assert_close(by_row, expected)
