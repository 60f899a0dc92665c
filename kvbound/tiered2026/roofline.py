"""What the study predicts from arithmetic and bandwidth alone."""

from __future__ import annotations

from kvbound.catalog import Gpu
from kvbound.tiered2026.setting import Setting

FLOPS_PER_PARAMETER = 2
"""Floating-point operations of a parameter and token: a multiplication and an addition."""


def compute_only(gpu: Gpu, setting: Setting) -> float:
    """Return tokens/s if nothing but arithmetic took time."""
    return gpu.flops / (FLOPS_PER_PARAMETER * setting.parameters)


def memory_bound(gpu: Gpu, setting: Setting, context: int) -> float:
    """Return tokens/s if nothing but reading weights and KV took time.

    Parameters
    ----------
    context
        Tokens whose KV a step reads.
    """
    return gpu.bandwidth / float(setting.weight_bytes + context * setting.kv_bytes)


def ridge_point(gpu: Gpu) -> float:
    """Return the operations per byte from which on arithmetic takes longer than reading."""
    return gpu.flops / gpu.bandwidth
