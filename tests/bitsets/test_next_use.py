"""Reads by token, with and without numba: their transposition, and the reads around a step."""

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets import next_use
from kvbound.instance import Instance
from kvbound.rules import Migration
from tests.plain import without_numba
from tests.strategies import tiny_instances


@pytest.mark.parametrize("module", [next_use, without_numba(next_use)])
@given(data=st.binary(min_size=24, max_size=24), step=st.integers(0, 192))
def test_reads_around_a_step(module: ModuleType, data: bytes, step: int) -> None:
    by_token = np.frombuffer(data, np.uint64).reshape(3, 1)
    at = np.flatnonzero(np.unpackbits(by_token.view(np.uint8).ravel(), bitorder="little"))
    assert module.next_read(by_token, 0, step, 192) == min(at[at >= step], default=192)
    assert module.last_read(by_token, 0, step) == max(at[at < step], default=-1)


@pytest.mark.parametrize("module", [next_use, without_numba(next_use)])
@given(instance=tiny_instances(migration=Migration.ON_READ) | tiny_instances(batch=True))
@settings(max_examples=20, deadline=None)
def test_transposed_reads(module: ModuleType, instance: Instance) -> None:
    """The bits of a token are the steps whose rows have it, except for the step of its birth."""
    by_token, steps = module.transposed_reads(instance), instance.decode_steps
    for layer in range(instance.layers):
        rows = np.unpackbits(instance.trace.rows[layer], axis=1, bitorder="little")[:, : instance.tokens]
        past = rows * (instance.timeline.born < np.arange(steps)[:, None])
        columns = np.ascontiguousarray(by_token[layer].T).view(np.uint8)
        found = np.unpackbits(columns, axis=1, bitorder="little")[:, :steps]
        assert np.array_equal(found, past.T)


@pytest.mark.parametrize("module", [next_use, without_numba(next_use)])
@pytest.mark.parametrize(("steps", "tokens"), [(64, 128), (130, 150)])
def test_transposition_of_several_blocks(module: ModuleType, steps: int, tokens: int) -> None:
    rng, words = np.random.default_rng(0), -(-tokens // 64)
    rows = rng.integers(0, 2**64, (steps, words), np.uint64)
    past = np.sort(rng.integers(0, tokens + 1, steps))
    by_token = np.empty((-(-steps // 64), tokens), np.uint64)
    module.transpose(rows, past, by_token)
    bits = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")[:, :tokens]
    columns = np.ascontiguousarray(by_token.T).view(np.uint8)
    found = np.unpackbits(columns, axis=1, bitorder="little").T
    assert np.array_equal(found[:steps], bits * (np.arange(tokens) < past[:, None]))
    assert not found[steps:].any()


@given(instance=tiny_instances())
@settings(max_examples=20, deadline=None)
def test_first_reads(instance: Instance) -> None:
    by_token, steps = next_use.transposed_reads(instance), instance.decode_steps
    for layer in range(instance.layers):
        past = instance.trace.past_reads(layer)[:, : instance.prefill_tokens]
        expected = np.where(past.any(axis=0), past.argmax(axis=0), steps)
        found = next_use.first_reads(by_token[layer], instance.prefill_tokens, steps)
        assert np.array_equal(found, expected)
