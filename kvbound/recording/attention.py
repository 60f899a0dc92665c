"""Select reads from recorded attention: the past tokens with the largest head-averaged probability.

There are two forms of recordings (.npz). Queries and keys after RoPE: ``q`` (sequences, layers, tokens,
heads, size) and ``k`` (sequences, layers, tokens, kv heads, size), where several query heads share a kv head.
Or head-averaged probabilities: ``p`` (sequences, layers, tokens (tokens + 1) / 2), the lower triangle of
every layer in row order. As float16 probabilities below 6e-8 are 0 and tie, the first form is preferable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError, UsageError
from kvbound.reading import open_npz
from kvbound.trace import Trace

Probabilities = NDArray[np.float32]


def from_qk(
    path: Path | str,
    seq: int,
    prefill: int,
    share: float,
    *,
    steps: int | None = None,
    source: str = "",
    licence: str = "",
) -> Trace:
    """Make a trace from one recorded sequence.

    The step at position n reads, in every layer, the ceil(share * n) of the tokens 0..n-1 with the largest
    probability; ties go to the lower id, and the token itself is left out. The probabilities become the
    trace's attention mass.

    Parameters
    ----------
    path
        The .npz file.
    seq
        Index of the sequence.
    prefill
        Position of the first step.
    share
        Share of the past tokens to read, above 0.
    steps
        Number of steps, by default all.

    Raises
    ------
    InputError
        The file has neither of the two forms.
    UsageError
        There is no such sequence, or no step at or after `prefill`.
    """
    layers = list(probabilities(path, seq))
    tokens = len(layers[0])
    steps = tokens - prefill if steps is None else steps
    if not (prefill > 0 and 0 < steps <= tokens - prefill):
        raise UsageError(f"{path} has {tokens} tokens: no {steps} steps from position {prefill}")
    positions = range(prefill, prefill + steps)
    lists = [[top(layer[n, :n], count(share, n)) for layer in layers] for n in positions]
    mass = [
        [layer[n, ids] for layer, ids in zip(layers, row, strict=True)]
        for n, row in zip(positions, lists, strict=True)
    ]
    return Trace.from_lists(prefill, lists, mass=mass, source=source, licence=licence, file=path)


def sparsify(trace: Trace, share: float) -> Trace:
    """Return the trace with the ceil(share * n) reads of each slot that have the largest recorded mass.

    Slots with fewer reads keep all of them.

    Raises
    ------
    UsageError
        The trace has no attention mass or is a batch, or the share is not in (0, 1].
    """
    if not trace.timeline.plain:
        raise UsageError("a batch cannot be made sparser; select the reads of each sequence before")
    lists: list[list[NDArray[np.int64]]] = []
    mass: list[list[NDArray[np.float16]]] = []
    for step in range(trace.decode_steps):
        lists.append([])
        mass.append([])
        for layer in range(trace.layers):
            ids, weights = trace.listed(step, layer), trace.listed_mass(step, layer)
            if weights is None:
                raise UsageError("a trace without recorded attention mass cannot be made sparser")
            kept = top(weights.astype(np.float32), min(count(share, trace.prefill_tokens + step), len(ids)))
            lists[-1].append(ids[kept])
            mass[-1].append(weights[kept])
    made = Trace.from_lists(
        trace.prefill_tokens, lists, mass=mass, source=trace.source, licence=trace.licence
    )
    return replace(made, experts=trace.experts)


def count(share: float, past: int) -> int:
    """Return ceil(share * past), where 0.15 * 20 counts as 3 and not as slightly more."""
    if not 0 < share <= 1:
        raise UsageError(f"the share of tokens to read is above 0 and at most 1, not {share}")
    return math.ceil(round(share * past, 9))


def top(weights: Probabilities, most: int) -> NDArray[np.int64]:
    """Return the ascending positions of the `most` largest weights (n,); ties go to the lower positions."""
    return np.sort(np.argsort(-weights, kind="stable")[:most])


def probabilities(path: Path | str, seq: int) -> Iterator[Probabilities]:
    """Yield the causal, head-averaged attention of every layer, (tokens, tokens)."""
    arrays = _load(path)
    forms = [name for name in (("q", "k"), ("p",)) if set(name) <= set(arrays)]
    if not forms:
        raise InputError(path, "", f"arrays q and k, or p, not {sorted(arrays)}")
    if not 0 <= seq < len(arrays[forms[0][0]]):
        raise UsageError(f"{path} has the sequences 0 to {len(arrays[forms[0][0]]) - 1}, not {seq}")
    if forms[0] == ("p",):
        yield from _from_triangles(path, arrays["p"][seq])
        return
    q, k = (arrays[name][seq].astype(np.float32) for name in ("q", "k"))
    if (
        q.ndim != 4
        or k.ndim != 4
        or q.shape[:2] != k.shape[:2]
        or q.shape[3] != k.shape[3]
        or q.shape[2] % k.shape[2]
    ):
        raise InputError(path, "q, k", f"queries and keys that belong together, not {q.shape} and {k.shape}")
    for queries, keys in zip(q, k, strict=True):
        yield head_mean(queries, keys)


def head_mean(q: NDArray[np.float32], k: NDArray[np.float32]) -> Probabilities:
    """Return causal softmax attention averaged over heads, (tokens, tokens).

    Parameters
    ----------
    q
        Queries, (tokens, heads, size).
    k
        Keys, (tokens, kv heads, size); each serves heads / kv heads neighbouring query heads.
    """
    tokens, heads, size = q.shape
    future = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    mean = np.zeros((tokens, tokens), np.float32)
    for head in range(heads):
        scores = q[:, head] @ k[:, head * k.shape[1] // heads].T / np.float32(math.sqrt(size)) + future
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        mean += weights / weights.sum(axis=1, keepdims=True)
    return mean / np.float32(heads)


def _from_triangles(path: Path | str, triangles: NDArray[Any]) -> Iterator[Probabilities]:
    tokens = (math.isqrt(8 * triangles.shape[-1] + 1) - 1) // 2
    if triangles.ndim != 2 or tokens * (tokens + 1) // 2 != triangles.shape[-1]:
        raise InputError(path, "p", f"the lower triangle of every layer, not {triangles.shape}")
    for triangle in triangles:
        full = np.zeros((tokens, tokens), np.float32)
        full[np.tril_indices(tokens)] = triangle
        yield full


def _load(path: Path | str) -> dict[str, NDArray[Any]]:
    with open_npz(path, "a recording") as file:
        arrays: dict[str, NDArray[Any]] = {
            name: file.numbers(name, "f") for name in ("q", "k", "p") if name in file.names
        }
    for name, array in arrays.items():
        if array.ndim < 3 or not bool(np.isfinite(array).all()):
            raise InputError(path, name, "finite numbers")
    return arrays
