"""Small instances whose layers differ, some with weights that may be placed, and multipliers for them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tests.checker.layered import Layered
from tests.checker.plain import Plain

FULL = 1 << 40


def any_sizes(rng: np.random.Generator, layers: int, tiers: int) -> dict[str, Any]:
    """Sizes by layer, 0 among them, and formats of other ratios."""
    sizes = rng.integers(0, 5, layers)
    if len(set(sizes.tolist())) == 1:
        sizes[0] = 5 - sizes[0]
    formats = {
        f"t{k}": {"bytes": (rng.integers(1, 4, layers) * sizes).tolist()}
        for k in range(tiers)
        if rng.random() < 0.4
    }
    return {"sizes": sizes.tolist(), "formats": formats}


def readable(plain: Plain, layer: int, token: int, step: int) -> bool:
    return plain.born[token] < step <= plain.ends[layer][token] and plain.size[layer][0] > 0


def any_layered(rng: np.random.Generator, most: int, layers: int, tiers: int, **rules: Any) -> Layered:
    """Any instance of a few tokens and steps."""
    steps, tokens = int(rng.integers(1, 2 + most // 2)), int(rng.integers(2, most + 1))
    prefill = int(rng.integers(1, tokens + 1))
    births = np.bincount(rng.integers(0, steps, tokens - prefill), minlength=steps)
    born = [-1] * prefill + np.repeat(np.arange(steps), births).tolist()
    own = [int(rng.integers(max(b, 0), steps)) if rng.random() < 0.2 else None for b in born]
    windows: list[int | None] = [int(w) if w else None for w in rng.integers(0, 4, layers)]
    if not any(windows):
        windows[0] = 2
    more = any_sizes(rng, layers, tiers) if layers > 1 and rng.random() < 0.7 else {}
    trace = {"births": births.tolist(), "ends": own, "sequence": rng.integers(0, 2, tokens).tolist()}
    drawn = {
        "copies": str(rng.choice(["inclusive", "exclusive"])),
        "initial": str(rng.choice(["free", "prefill-first"])),
        "migration": str(rng.choice(["none", "on-read", "prefetch"])), "granularity": int(rng.integers(1, 4)),
        "timing": str(rng.choice(["serial", "parallel"])),
    } | rules  # fmt: skip
    latency = 0.5
    if drawn["copies"] == "inclusive":
        drawn["timing"], latency = "serial", 0.0
    weights = int(rng.integers(0, 3))
    case = Layered(
        [[[] for _ in range(layers)]] * steps, prefill, windows=windows if rng.random() < 0.8 else None,
        capacity=(None,) * tiers, weights=weights, weight_reads=float(rng.integers(0, 3)) * (weights > 0),
        latency=latency * (rng.random() < 0.5), rules=drawn, trace=trace, **more,
    )  # fmt: skip
    plain = Plain(case)
    reads = [
        [
            [
                token
                for token in range(tokens)
                if rng.random() < 0.4
                and (born[token] == step or readable(plain, layer, token, step))
            ]
            for layer in range(layers)
        ]
        for step in range(steps)
    ]  # fmt: skip
    return dataclasses.replace(case, reads=reads)


def any_weights(rng: np.random.Generator, sizes: list[int], granularity: int, chunks: int) -> dict[str, Any]:
    """Weights of a few blocks of KV in each layer, in at most so many chunks."""
    blocks = granularity * np.array(sizes)
    reads = (rng.integers(0, 3 * blocks + 1) + rng.choice([0, 0.5], len(sizes))).tolist()
    least = max(-(-int(read) // chunks) + int(block) for read, block in zip(reads, blocks, strict=True))
    limit = {} if rng.random() < 0.3 else {"weight_chunk_bytes": least + int(rng.integers(0, 4))}
    return {
        "weights": math.ceil(sum(reads)) + int(rng.integers(0, 3)), "weight_reads": reads,
        "placement": {"weights": "placeable"} | limit,
    }  # fmt: skip


def any_weighted(
    rng: np.random.Generator, most: int, layers: int, tiers: int, chunks: int = 3, **rules: Any
) -> Layered:
    """Any instance of a few tokens, steps and chunks of weights."""
    while True:
        case = any_layered(rng, most, layers, tiers, **rules)
        sizes = rng.integers(1, 5, layers).tolist()
        same = len(set(sizes)) == 1
        granularity, number = case.rules["granularity"], np.zeros(layers, np.int64)
        if chunks > 1 and rng.random() < 0.5:
            number = rng.integers(0, chunks, layers)
        weights = any_weights(rng, sizes, granularity, chunks - int(number.max()))
        case = dataclasses.replace(case, sizes=sizes[0] if same else sizes, formats={}, **weights)
        if number.any():
            case = with_experts(rng, case, number.tolist())
        if case.first:
            return case


def with_experts(rng: np.random.Generator, case: Layered, number: list[int]) -> Layered:
    """The instance with so many experts in each layer, some smaller than a block, that the trace names."""
    size = [int(rng.integers(1, 3 * case.block(n) + 1)) for n in range(case.layers)]
    counted = float(rng.choice([0, 0.25, 1])) if min(n or 1 for n in number) else 0.0
    reads = [
        read + counted * each * (n > 0) for read, each, n in zip(case.weights_read, size, number, strict=True)
    ]
    chance = rng.random()
    routing = [[np.flatnonzero(rng.random(n) < chance).tolist() for n in number] for _ in range(case.steps)]
    held = sum(each * n for each, n in zip(size, number, strict=True))
    fields = {"experts": number, "expert_bytes": size} | ({"experts_read": counted} if counted else {})
    return dataclasses.replace(
        case, weights=case.weights + held, weight_reads=reads, placement=case.placement | fields,
        routing=routing,
    )  # fmt: skip


def with_room(case: Layered, room: tuple[int | None, ...]) -> Layered:
    return dataclasses.replace(case, capacity=room)


def any_multipliers(rng: np.random.Generator, case: Layered) -> dict[str, Any]:
    """Random prices of a realistic magnitude."""
    tiers, slots = len(case.capacity), (case.steps, case.layers)
    capacity = rng.random((tiers, 1 + slots[0] * slots[1])) * rng.choice([0, 0.05, 0.3, 1]) * 2.0**30
    for k, limit in enumerate(case.capacity):
        if limit is None or (case.rules["copies"] == "inclusive" and k == tiers - 1):
            capacity[k] = 0
    theta = rng.dirichlet(np.full(2 * tiers, 0.5), (2 << tiers * (case.latency > 0), *slots))
    if case.rules["timing"] == "serial":
        theta = rng.choice([0.3, 1.0, 1.0], theta.shape)
    scale = rng.choice([0, 0.3, 1, 3], (1, *slots)) * 2.0**30
    return case.certificate(
        scale=np.int64(30), capacity=capacity.astype(np.int64), tier=np.int64(rng.integers(tiers)),
        prices=(rng.normal(0.4, 0.7, (3 * tiers, *slots)) * scale).astype(np.int64),
        whole=rng.integers(-1, 4, slots),
        theta=np.moveaxis((theta * FULL * (1 - 1e-13)).astype(np.int64), -1, 1).copy(),
    )  # fmt: skip
