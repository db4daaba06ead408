"""What is known of convolutional hosts and branches: values are (row, sample, height, width, channel)."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from torch import Tensor, nn

from esper_env.blueprints.attention import ChannelAttention
from esper_env.blueprints.norm import NormDelta
from esper_env.engine.forward import Forward, Layers, Run, Tensors, altered, stacked
from esper_env.engine.kernels.kernels import BatchNorm, GroupNorm, Norm
from esper_env.hosts.cnn import MeanHead
from esper_env.slots.blend import Gate


def joined(segments: Sequence[nn.Module], prefix: str) -> Forward | None:
    """Two segments as one forward pass, where the second is a pool and one operation with what is before."""
    if len(segments) < 2 or type(segments[0]) is not nn.Sequential or type(segments[1]) is not nn.MaxPool2d:
        return None
    return stacked(nn.Sequential(*segments[0], segments[1]), prefix, IMAGES)


def _sequence(module: Any, prefix: str) -> Forward | None:
    """Layers one after another; a convolution takes the norm and the ReLU behind it along."""
    layers, forwards = list(module.named_children()), []
    while layers:
        name, layer = layers.pop(0)
        if type(layer) is nn.Conv2d and not altered(layer):
            taken = _followers(layer, [each for _, each in layers])
            names = [f"{prefix}{each}." for each, _ in layers[: len(taken)]]
            layers = layers[len(taken) :]
            forward = _convolution(layer, f"{prefix}{name}.", taken, names)
        else:
            forward = stacked(layer, f"{prefix}{name}.", IMAGES)
        if forward is None:
            return None
        forwards.append(forward)
    return lambda run, tensors, x: reduce(lambda value, each: each(run, tensors, value), forwards, x)


def _followers(convolution: nn.Conv2d, layers: list[nn.Module]) -> list[nn.Module]:
    """The norm, the ReLU and the pool that come next and can be done in one go."""
    taken: list[nn.Module] = []
    if convolution.groups > 1:
        return taken
    for kinds in ((nn.BatchNorm2d, nn.GroupNorm), (nn.ReLU,), (nn.MaxPool2d,)):
        following = layers[len(taken) : len(taken) + 1]
        if following and type(following[0]) in kinds and not altered(following[0]) and _plain(following[0]):
            taken += following
    return taken


def _plain(layer: nn.Module) -> bool:
    """Whether a norm has parameters and running statistics, and a pool halves the sides, in the usual way."""
    if isinstance(layer, nn.MaxPool2d):
        return _halves(layer)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    return not isinstance(layer, nn.GroupNorm) or layer.affine


def _convolution(layer: nn.Conv2d, prefix: str, taken: list[nn.Module], names: list[str]) -> Forward | None:
    side, weight, bias = layer.kernel_size[0], f"{prefix}weight", f"{prefix}bias"
    plain = layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if not plain or layer.kernel_size != (side, side) or side % 2 == 0 or layer.padding != (side // 2,) * 2:
        return None
    if layer.groups > 1:
        each = layer.groups == layer.in_channels == layer.out_channels and layer.bias is None
        return (lambda run, t, x: run.kernels.depthwise(x, t[weight])) if each else None
    normed = bool(taken) and isinstance(taken[0], nn.BatchNorm2d | nn.GroupNorm)
    norm = _norm(taken[0], names[0]) if normed else None
    relu, pool = (any(isinstance(each, kind) for each in taken) for kind in (nn.ReLU, nn.MaxPool2d))
    return lambda run, t, x: run.kernels.conv(x, t[weight], t.get(bias), norm and norm(run, t), relu, pool)


def _norm(layer: nn.Module, prefix: str) -> Callable[[Run, Tensors], Norm]:
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    if isinstance(layer, nn.GroupNorm):
        groups, eps = layer.num_groups, layer.eps
        return lambda run, t: GroupNorm(t[weight], t[bias], groups, eps)
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.momentum is not None, "see _plain"
    mean, var, momentum, eps = f"{prefix}running_mean", f"{prefix}running_var", layer.momentum, layer.eps

    def norm(run: Run, t: Tensors) -> Norm:
        if run.training:
            t[f"{prefix}num_batches_tracked"].add_(1)
        return BatchNorm(t[weight], t[bias], t[mean], t[var], momentum, eps, run.training)

    return norm


def _conv2d(module: Any, prefix: str) -> Forward | None:
    return _convolution(module, prefix, [], [])


def _group_norm(module: Any, prefix: str, less: bool = False) -> Forward | None:
    if not module.affine:
        return None
    norm = _norm(module, prefix)
    return lambda run, tensors, x: run.kernels.group_norm(x, norm(run, tensors), less)  # type: ignore[arg-type]


def _linear(module: Any, prefix: str) -> Forward | None:
    """Of (row, sample, feature) alone: in a branch, a linear layer sees other axes than here."""
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    if module.bias is None:
        return None
    return lambda run, tensors, x: run.kernels.linear(x, tensors[weight], tensors[bias])


def _max_pool(module: Any, prefix: str) -> Forward | None:
    return (lambda run, tensors, x: run.kernels.max_pool(x)) if _halves(module) else None


def _halves(pool: nn.MaxPool2d) -> bool:
    plain = not pool.ceil_mode and not pool.return_indices
    return plain and (pool.kernel_size, pool.stride, pool.padding, pool.dilation) == (2, 2, 0, 1)


def _elementwise(function: Callable[[Run, Tensor], Tensor]) -> Callable[[Any, str], Forward]:
    return lambda module, prefix: lambda run, tensors, x: function(run, x)


def _mean_head(module: Any, prefix: str) -> Forward | None:
    linear = _linear(module.linear, f"{prefix}linear.")
    return linear and (lambda run, tensors, x: linear(run, tensors, run.kernels.mean(x)))


def _channel_attention(module: Any, prefix: str) -> Forward | None:
    squeeze, excite = _linear(module.squeeze, f"{prefix}squeeze."), _linear(module.excite, f"{prefix}excite.")
    assert squeeze is not None
    assert excite is not None

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        kernels = run.kernels
        hidden = kernels.silu(squeeze(run, tensors, kernels.mean(x)))
        return kernels.scale(x, 2 * kernels.sigmoid(excite(run, tensors, hidden)) - 1)

    return forward


def _norm_delta(module: Any, prefix: str) -> Forward | None:
    return _group_norm(module.norm, f"{prefix}norm.", less=True)


def _gate(module: Any, prefix: str) -> Forward | None:
    into, relu, out, _ = module.layers
    first, second = _linear(into, f"{prefix}layers.0."), _linear(out, f"{prefix}layers.2.")
    assert first is not None
    assert second is not None

    def forward(run: Run, tensors: Tensors, h: Tensor) -> Tensor:
        hidden = relu(first(run, tensors, run.kernels.mean(h)))
        return run.kernels.sigmoid(second(run, tensors, hidden))[:, :, None, None]

    return forward


IMAGES: Layers = {
    nn.Sequential: _sequence,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: _elementwise(lambda run, x: x.relu()),
    nn.SiLU: _elementwise(lambda run, x: run.kernels.silu(x)),
    nn.Sigmoid: _elementwise(lambda run, x: run.kernels.sigmoid(x)),
    nn.Identity: _elementwise(lambda run, x: x),
    MeanHead: _mean_head,
    ChannelAttention: _channel_attention,
    NormDelta: _norm_delta,
    Gate: _gate,
}
"""What is known: each turns a module and the prefix of its parameters' names into a forward pass."""
