"""A decoder of Llama's architecture in NumPy: float32, all tokens of a sequence at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.accuracy.cache import Zone, attention
from kvbound.accuracy.formats import Floats

Attend: TypeAlias = Callable[[int, Floats, Floats, Floats], Floats]
"""Called with a layer, queries (tokens, heads, size), keys and values (tokens, KV heads x size), both before
they are stored; returns outputs (tokens, heads, size)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder.

    Parameters
    ----------
    heads, kv_heads, head_size
        Query heads, KV heads, and values of a head, an even number.
    context
        Tokens for which the model was trained.
    rope_base
        The i-th pair of neighbouring values of a head rotates by position x ``rope_base ** (-2 i /
        head_size)``.
    epsilon
        Added to the mean square that norms divide by.
    """

    heads: int
    kv_heads: int
    head_size: int
    context: int
    rope_base: float = 1e4
    epsilon: float = 1e-5


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of one layer, float32; matrices have shape (outputs, inputs).

    Parameters
    ----------
    attention_norm, mlp_norm
        Gains of the norms before attention and before the feed-forward part, shape (width,).
    query, key, value, output
        Matrices of attention.
    gate, up, down
        Matrices of the feed-forward part: ``down @ (silu(gate @ x) * (up @ x))``.
    """

    attention_norm: Floats
    query: Floats
    key: Floats
    value: Floats
    output: Floats
    mlp_norm: Floats
    gate: Floats
    up: Floats
    down: Floats


@dataclass(frozen=True, eq=False)
class Decoder:
    """A trained decoder.

    Parameters
    ----------
    shape
        Sizes.
    embedding
        Vectors of the tokens, shape (vocabulary, width).
    layers
        Layers in order.
    norm
        Gain of the last norm, shape (width,).
    head
        Matrix of the next token's logits, shape (vocabulary, width); the embedding where the two are tied.
    frequency_factors
        Divisors of the rotations' frequencies, shape (head size / 2,), or None.
    """

    shape: Shape
    embedding: Floats
    layers: tuple[Layer, ...]
    norm: Floats
    head: Floats
    frequency_factors: Floats | None = None

    @property
    def width_kv(self) -> int:
        """Values of one token's K, or V, in a layer."""
        return self.shape.kv_heads * self.shape.head_size

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        tied = self.head is self.embedding
        count = self.embedding.size + self.norm.size + (0 if tied else self.head.size)
        return count + sum(int(each.size) for layer in self.layers for each in vars(layer).values())

    def hidden(self, tokens: Sequence[int], attend: Attend) -> Floats:
        """Return the last hidden states after the norm, shape (tokens, width).

        Parameters
        ----------
        tokens
            Token ids, the first at position 0.
        attend
            Computes attention from queries, K and V.
        """
        states = self.embedding[np.asarray(tokens)]
        turn = self._rotation(len(tokens))
        for number, layer in enumerate(self.layers):
            states = states + self._attended(number, layer, states, turn, attend)
            inner = _norm(states, layer.mlp_norm, self.shape.epsilon)
            states = states + (_silu(inner @ layer.gate.T) * (inner @ layer.up.T)) @ layer.down.T
        return _norm(states, self.norm, self.shape.epsilon)

    def logits(self, hidden: Floats) -> Floats:
        """Return the logits of the next token, shape (tokens, vocabulary)."""
        return hidden @ self.head.T

    def _attended(
        self, number: int, layer: Layer, states: Floats, turn: tuple[Floats, Floats], attend: Attend
    ) -> Floats:
        count, shape = len(states), self.shape
        inner = _norm(states, layer.attention_norm, shape.epsilon)
        queries = _rotated((inner @ layer.query.T).reshape(count, shape.heads, -1), turn)
        keys = _rotated((inner @ layer.key.T).reshape(count, shape.kv_heads, -1), turn)
        found = attend(number, queries, keys.reshape(count, -1), inner @ layer.value.T)
        return found.reshape(count, -1) @ layer.output.T

    def _rotation(self, count: int) -> tuple[Floats, Floats]:
        """Return cosines and sines, each of shape (tokens, 1, head size / 2)."""
        size = self.shape.head_size
        speeds = self.shape.rope_base ** (-np.arange(0, size, 2) / size)
        if self.frequency_factors is not None:
            speeds = speeds / self.frequency_factors
        angles = (np.arange(count)[:, None] * speeds)[:, None, :]
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def exact_attention(decoder: Decoder) -> Attend:
    """Return attention over K and V as they are, in float32."""

    def attend(_: int, queries: Floats, keys: Floats, values: Floats) -> Floats:
        return attention(queries, whole(keys), whole(values), decoder.shape.kv_heads)

    return attend


def whole(rows: Floats) -> list[Zone]:
    """Return K or V that all queries read as it is."""
    after = np.arange(1, len(rows) + 1)
    return [Zone(rows, after * 0, after)]


def greedy(decoder: Decoder, tokens: Sequence[int], count: int, end: int | None = None) -> list[int]:
    """Return the likeliest continuation of a prompt in float32, at most `count` tokens, without `end`."""
    found: list[int] = []
    while len(found) < count:
        hidden = decoder.hidden([*tokens, *found], exact_attention(decoder))
        best = int(decoder.logits(hidden[-1:]).argmax())
        if best == end:
            break
        found.append(best)
    return found


def _norm(states: Floats, gain: Floats, epsilon: float) -> Floats:
    mean = np.mean(states * states, axis=-1, keepdims=True)
    return states / np.sqrt(mean + np.float32(epsilon)) * gain


def _silu(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: the quotient is then 0
        return values / (1 + np.exp(-values))


def _rotated(heads: Floats, turn: tuple[Floats, Floats]) -> Floats:
    """Return heads with neighbouring pairs rotated, shape (tokens, heads, size)."""
    cosine, sine = turn
    even, odd = heads[..., 0::2], heads[..., 1::2]
    rotated: NDArray[np.float32] = np.empty_like(heads)
    rotated[..., 0::2] = even * cosine - odd * sine
    rotated[..., 1::2] = even * sine + odd * cosine
    return rotated
