"""A decoder and a cache in plain loops: one token after the other, one head after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kvbound.accuracy.decoder import Decoder

Doubles = NDArray[np.float64]
Read = Callable[[list[Doubles]], list[Doubles]]
"""Returns the rows that the newest token's query reads, of those that were written."""


def as_written(rows: list[Doubles]) -> list[Doubles]:
    return rows


def decode(
    made: Decoder, tokens: Sequence[int], keys: Read = as_written, values: Read = as_written
) -> Doubles:
    """Return the last hidden states after the norm, in float64, shape (tokens, width)."""
    shape = made.shape
    written: list[tuple[list[Doubles], list[Doubles]]] = [([], []) for _ in made.layers]
    found = []
    for position, token in enumerate(tokens):
        state = made.embedding[token].astype(np.float64)
        for layer, (all_keys, all_values) in zip(made.layers, written, strict=True):
            inner = _norm(state, layer.attention_norm, shape.epsilon)
            query = _turned(layer.query @ inner, position, made)
            all_keys.append(_turned(layer.key @ inner, position, made))
            all_values.append(layer.value @ inner)
            state = state + layer.output @ _attend(query, keys(all_keys), values(all_values), made)
            inner = _norm(state, layer.mlp_norm, shape.epsilon)
            gate = layer.gate @ inner
            state = state + layer.down @ (gate / (1 + np.exp(-gate)) * (layer.up @ inner))
        found.append(_norm(state, made.norm, shape.epsilon))
    return np.array(found)


def _norm(state: Doubles, gain: NDArray[np.float32], epsilon: float) -> Doubles:
    return state / math.sqrt(sum(float(x) ** 2 for x in state) / len(state) + epsilon) * gain


def _turned(row: Doubles, position: int, made: Decoder) -> Doubles:
    size, turned = made.shape.head_size, row.copy()
    for start in range(0, len(row), 2):
        speed = made.shape.rope_base ** (-(start % size) / size)
        if made.frequency_factors is not None:
            speed /= float(made.frequency_factors[start % size // 2])
        angle = position * speed
        x, y = row[start], row[start + 1]
        turned[start] = x * math.cos(angle) - y * math.sin(angle)
        turned[start + 1] = x * math.sin(angle) + y * math.cos(angle)
    return turned


def _attend(query: Doubles, keys: list[Doubles], values: list[Doubles], made: Decoder) -> Doubles:
    size, parts = made.shape.head_size, []
    for head in range(made.shape.heads):
        shared = head // (made.shape.heads // made.shape.kv_heads)
        mine, its = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
        scores = [float(query[mine] @ key[its]) / math.sqrt(size) for key in keys]
        powers = [math.exp(score - max(scores)) for score in scores]
        mixed = sum(power * value[its] for power, value in zip(powers, values, strict=True))
        parts.append(np.asarray(mixed) / sum(powers))
    return np.concatenate(parts)
