"""Whole configurations, one function each. To vary one, call it and override a field."""

from collections.abc import Mapping
from typing import Any

from esper_env.config import KEYWORDS, EsperConfig, override


def cifar() -> EsperConfig:
    """`EsperCifar-v0`: the baseline host on CIFAR-10, 150 epochs of 8,192 images.

    Its procedural images, if those are asked for, are about as hard for the baseline host as CIFAR-10.
    """
    return override(
        EsperConfig(),
        {
            "task.difficulty.min_radius": 0.15,
            "task.difficulty.max_radius": 0.4,
            "task.difficulty.tilt": 0.35,
            "task.difficulty.contrast": 0.1,
            "task.difficulty.clutter": 4,
        },
    )


def micro() -> EsperConfig:
    """`EsperMicro-v0`: a host of 1,102 parameters on procedural 16x16 images, 30 epochs of 512 images."""
    return override(
        EsperConfig(),
        {
            "horizon": 30,
            "host.name": "micro",
            "task.data": "procedural",
            "task.image_size": 16,
            "task.train_size": 8192,
            "task.val_size": 1024,
            "task.test_size": 2048,
            "engine.epoch_size": 512,
            "engine.batch_size": 64,
            "engine.counterfactual_size": 256,
            "engine.optimizer.host_lr": 0.05,
            "engine.optimizer.module_lr": 0.02,
        },
    )


def stories() -> EsperConfig:
    """`EsperTinyStories-v0`: the host gpt_small on TinyStories, 150 epochs of 256 windows of 256 tokens.

    Host and modules descend by AdamW. Stories are tokens of a byte-pair code of 4,096 entries; with
    `data="procedural"` they are words of a grammar of known entropy.
    """
    return override(
        EsperConfig(),
        {
            "host.name": "gpt_small",
            "task.patience": 60.0,
            "task.data": "tinystories",
            "engine.name": "reference",
            "engine.epoch_size": 256,
            "engine.batch_size": 32,
            "engine.counterfactual_size": 64,
            "engine.optimizer.host_optimizer": "adamw",
            "engine.optimizer.host_lr": 1e-3,
            "engine.optimizer.host_weight_decay": 0.1,
            "engine.optimizer.module_optimizer": "adamw",
            "engine.optimizer.module_lr": 1e-3,
            "engine.optimizer.warmup_steps": 100,
        },
    )


PRESETS = {"cifar": cifar, "micro": micro, "stories": stories}
"""By the name that the registration uses."""


def resolve(preset: str, keywords: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> EsperConfig:
    """The configuration that a constructor's arguments describe: preset, then keywords, then overrides.

    Args:
        preset: A key of `PRESETS`.
        keywords: Names of `KEYWORDS` -> value; None leaves the preset's value.
        overrides: Dotted path -> plain value, or None.

    Raises:
        ValueError: an unknown preset or path, or a value of the wrong type or out of range; each is named.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is not known, the presets are {sorted(PRESETS)}")
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"overrides={overrides!r} is not allowed: a dict of dotted paths is")
    named = {path: name for name, path in KEYWORDS.items()}
    changes = {KEYWORDS[name]: value for name, value in keywords.items() if value is not None}
    config = override(PRESETS[preset](), {**changes, **(overrides or {})}, named)
    if preset == "micro" and config.task.data != "procedural":
        raise ValueError(f"data={config.task.data!r} is not allowed: EsperMicro is always 'procedural'")
    return config
