"""What is known of language hosts and branches: values are (row, sample, token, feature).

Products with weights are one batched product over rows; attention sees the samples of all rows as one batch.
Norms, activations and attention are torch's on every device.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper_env.blueprints.transformer import LayerNormDelta
from esper_env.engine.forward import Forward, Layers, Run, Tensors, stacked
from esper_env.hosts.gpt import Block, TiedHead, TokenEmbedding
from esper_env.layers.transformer import Attention
from esper_env.layers.window import WindowAttention
from esper_env.slots.blend import TokenGate


def _sequence(module: Any, prefix: str) -> Forward | None:
    forwards: list[Forward] = []
    for name, layer in module.named_children():
        forward = stacked(layer, f"{prefix}{name}.", TEXTS)
        if forward is None:
            return None
        forwards.append(forward)
    return lambda run, tensors, x: reduce(lambda value, each: each(run, tensors, value), forwards, x)


def _linear(module: Any, prefix: str) -> Forward:
    weight, bias = f"{prefix}weight", f"{prefix}bias"

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        y = run.kernels.linear(x.flatten(1, 2), tensors[weight], tensors.get(bias))
        return y.unflatten(1, x.shape[1:3])

    return forward


def _layer_norm(module: Any, prefix: str) -> Forward | None:
    if len(module.normalized_shape) > 1 or module.weight is None or module.bias is None:
        return None
    weight, bias, shape, eps = f"{prefix}weight", f"{prefix}bias", module.normalized_shape, module.eps

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        normalized = F.layer_norm(x, shape, eps=eps)
        return torch.addcmul(tensors[bias][:, None, None], normalized, tensors[weight][:, None, None])

    return forward


def _layer_norm_delta(module: Any, prefix: str) -> Forward | None:
    norm = stacked(module.norm, f"{prefix}norm.", TEXTS)
    return norm and (lambda run, tensors, x: norm(run, tensors, x) - x)


def _token_embedding(module: Any, prefix: str) -> Forward | None:
    plain = all(each.padding_idx is None and each.max_norm is None for each in module.children())
    tokens, positions = f"{prefix}tokens.weight", f"{prefix}positions.weight"

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        table = tensors[tokens]
        first = torch.arange(len(x), device=x.device) * table.shape[1]
        embedded = F.embedding(x + first[:, None, None], table.flatten(0, 1))
        return embedded + tensors[positions][:, None, : x.shape[2]]

    return forward if plain else None


def _attention(module: Any, prefix: str) -> Forward | None:
    into, out = stacked(module.qkv, f"{prefix}qkv.", TEXTS), stacked(module.out, f"{prefix}out.", TEXTS)
    if into is None or out is None:
        return None

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        qkv = into(run, tensors, x).flatten(0, 1).unflatten(-1, (3, module.heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        mixed = module.mix(q, k, v).transpose(1, 2).flatten(2)
        return out(run, tensors, mixed.unflatten(0, x.shape[:2]))

    return forward


def _block(module: Any, prefix: str) -> Forward | None:
    attention = stacked(module.attention, f"{prefix}attention.", TEXTS)
    mlp = stacked(module.mlp, f"{prefix}mlp.", TEXTS)
    if attention is None or mlp is None:
        return None

    def forward(run: Run, tensors: Tensors, h: Tensor) -> Tensor:
        h = h + attention(run, tensors, h)
        return h + mlp(run, tensors, h)

    return forward


def _token_gate(module: Any, prefix: str) -> Forward | None:
    return stacked(module.layers, f"{prefix}layers.", TEXTS)


def _gelu(module: Any, prefix: str) -> Forward:
    return lambda run, tensors, x: F.gelu(x, approximate=module.approximate)


def _elementwise(function: Callable[[Run, Tensor], Tensor]) -> Callable[[Any, str], Forward]:
    return lambda module, prefix: lambda run, tensors, x: function(run, x)


TEXTS: Layers = {
    nn.Sequential: _sequence,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.GELU: _gelu,
    nn.ReLU: _elementwise(lambda run, x: x.relu()),
    nn.SiLU: _elementwise(lambda run, x: run.kernels.silu(x)),
    nn.Sigmoid: _elementwise(lambda run, x: run.kernels.sigmoid(x)),
    nn.Identity: _elementwise(lambda run, x: x),
    Attention: _attention,
    WindowAttention: _attention,
    Block: _block,
    LayerNormDelta: _layer_norm_delta,
    TiedHead: _linear,
    TokenEmbedding: _token_embedding,
    TokenGate: _token_gate,
}
