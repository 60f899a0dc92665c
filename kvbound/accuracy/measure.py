"""Run a trained model with its KV cache in several formats and compare what it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbound.accuracy.cache import Setting, attention
from kvbound.accuracy.decoder import Attend, Decoder, whole
from kvbound.accuracy.formats import Floats
from kvbound.accuracy.statistics import Doubles
from kvbound.errors import UsageError
from kvbound.progress import Progress, silent

_PREDICTIONS = 128
"""Predictions whose logits are held at once."""
TOP = 5
"""Number of likeliest next tokens that are compared."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a setting does to a model's predictions of a text.

    Parameters
    ----------
    setting
        How the cache was stored.
    losses
        Negative log-likelihood of each token in nats, shape (predictions,).
    divergences
        Kullback-Leibler divergence of each next token's distribution from that of the float32 cache, in nats,
        shape (predictions,).
    same_first
        Whether the likeliest next token is the same, shape (predictions,).
    shared
        Share of the `TOP` likeliest next tokens that are the same, shape (predictions,).
    errors
        Relative root mean square error of attention's output in each layer, from the same queries, K and V as
        with the float32 cache, shape (layers,).
    drifts
        The same where the states that enter a layer already differ, shape (layers,).
    """

    setting: Setting
    losses: Doubles
    divergences: Doubles
    same_first: NDArray[np.bool_]
    shared: Doubles
    errors: Doubles
    drifts: Doubles


@dataclass(frozen=True, eq=False)
class Comparison:
    """The float32 cache's losses, shape (predictions,), and the outcome of each setting."""

    reference: Doubles
    outcomes: tuple[Outcome, ...]


@dataclass
class _Sums:
    """Squares of differences of attention's outputs by layer, and figures of predictions, in parts."""

    layers: int
    error: Doubles = field(init=False)
    drift: Doubles = field(init=False)
    parts: list[tuple[NDArray[np.float64], ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.error, self.drift = np.zeros(self.layers), np.zeros(self.layers)


def segments(tokens: Sequence[int], context: int, begin: int | None = None) -> list[list[int]]:
    """Return tokens in segments that are decoded on their own.

    Parameters
    ----------
    context
        Tokens of a segment, `begin` included; the last may be shorter.
    begin
        Token that precedes every segment, None without one.

    Raises
    ------
    UsageError
        No token can be predicted.
    """
    lead = [] if begin is None else [begin]
    size = context - len(lead)
    found = [[*lead, *tokens[n : n + size]] for n in range(0, len(tokens), size)] if size > 0 else []
    found = [each for each in found if len(each) > 1]
    if not found:
        raise UsageError(
            f"expected a text and a context of at least 2 tokens, not {len(tokens):,} and {context:,}"
        )
    return found


def compare(
    decoder: Decoder,
    texts: Sequence[Sequence[int]],
    settings: Sequence[Setting],
    progress: Progress = silent,
) -> Comparison:
    """Run a model over texts with each setting and with a float32 cache.

    Every token is given, and the next predicted, as in decoding: a query reads each token in the format that
    holds it at that time.

    Parameters
    ----------
    texts
        Segments of tokens, each decoded from an empty cache.
    settings
        How the cache is stored.

    Raises
    ------
    InputError
        A format cannot store a K or V of the model.
    """
    sums = [_Sums(len(decoder.layers)) for _ in settings]
    squares, reference = np.zeros(len(decoder.layers)), []
    total, done = len(texts) * (len(settings) + 1), 0
    for text in texts:
        progress(done, total, "float32")
        outputs: list[Floats] = []
        attend = _reference(decoder, settings, sums, squares, outputs)
        exact = decoder.hidden(text, attend)
        states = []
        for setting, each in zip(settings, sums, strict=True):
            done += 1
            progress(done, total, setting.name)
            states.append(decoder.hidden(text, _stored(decoder, setting, outputs, each)))
        done += 1
        reference.append(_predictions(decoder, text, exact, states, sums))
    outcomes = (_outcome(setting, each, squares) for setting, each in zip(settings, sums, strict=True))
    return Comparison(np.concatenate(reference), tuple(outcomes))


def _reference(
    decoder: Decoder, settings: Sequence[Setting], sums: list[_Sums], squares: Doubles, outputs: list[Floats]
) -> Attend:
    """Return float32 attention that keeps its outputs and adds up the errors of all settings beside it."""
    kv_heads = decoder.shape.kv_heads

    def attend(layer: int, queries: Floats, keys: Floats, values: Floats) -> Floats:
        exact = attention(queries, whole(keys), whole(values), kv_heads)
        outputs.append(exact)
        squares[layer] += _square(exact)
        for setting, each in zip(settings, sums, strict=True):
            found = attention(queries, setting.k.zones(keys), setting.v.zones(values), kv_heads)
            each.error[layer] += _square(found - exact)
        return exact

    return attend


def _stored(decoder: Decoder, setting: Setting, outputs: list[Floats], sums: _Sums) -> Attend:
    """Return attention over a stored cache that adds up how far its outputs are from float32's."""

    def attend(layer: int, queries: Floats, keys: Floats, values: Floats) -> Floats:
        zones = setting.k.zones(keys), setting.v.zones(values)
        found = attention(queries, *zones, decoder.shape.kv_heads)
        sums.drift[layer] += _square(found - outputs[layer])
        return found

    return attend


def _predictions(
    decoder: Decoder, text: Sequence[int], exact: Floats, states: list[Floats], sums: list[_Sums]
) -> Doubles:
    """Add the figures of each prediction to the sums; return the losses of the float32 cache."""
    targets, losses = np.asarray(text[1:]), []
    for part in _parts(len(targets)):
        known = _log_probabilities(decoder, exact[part])
        best = _best(known)
        first, chance = known.argmax(axis=-1), np.exp(known)
        losses.append(-_taken(known, targets[part]))
        for state, each in zip(states, sums, strict=True):
            found = _log_probabilities(decoder, state[part])
            divergence = (chance * (known - found)).sum(axis=-1)
            same = (best[:, :, None] == _best(found)[:, None, :]).any(axis=-1).mean(axis=-1)
            agrees = found.argmax(axis=-1) == first
            each.parts.append((-_taken(found, targets[part]), divergence, agrees, same))
    return np.concatenate(losses)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _PREDICTIONS):
        yield slice(start, min(start + _PREDICTIONS, count))


def _log_probabilities(decoder: Decoder, states: Floats) -> Doubles:
    logits = decoder.logits(states).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def _taken(known: Doubles, targets: NDArray[np.int64]) -> Doubles:
    return np.take_along_axis(known, targets[:, None], axis=-1)[:, 0]


def _best(known: Doubles) -> NDArray[np.int64]:
    """Return the `TOP` likeliest tokens of each prediction, in any order."""
    count = min(TOP, known.shape[-1])
    return np.argpartition(known, -count, axis=-1)[:, -count:]


def _outcome(setting: Setting, sums: _Sums, squares: Doubles) -> Outcome:
    losses, divergences, same, shared = (np.concatenate(parts) for parts in zip(*sums.parts, strict=True))
    errors, drifts = _relative(sums.error, squares), _relative(sums.drift, squares)
    return Outcome(setting, losses, divergences, same.astype(bool), shared, errors, drifts)


def _square(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _relative(squares: Doubles, reference: Doubles) -> Doubles:
    return np.sqrt(squares / np.maximum(reference, np.finfo(float).tiny))
