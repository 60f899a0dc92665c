"""Batches of synthetic sequences."""

from typing import Any

import numpy as np
import pytest

from kvbound import workloads
from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.batch import batch
from kvbound.workloads import Batch
from kvbound.workloads.synthetic import Synthetic

BASE = {"layers": 2, "prefill_tokens": 40, "decode_steps": 150, "seed": 4}
KINDS = ("fang2025", "random-swap", "recorded-like")


def spec(kind: str = "random-swap", **fields: Any) -> Synthetic:
    return workloads.from_mapping({"kind": kind} | BASE | fields)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_is_the_sequence_itself(kind: str) -> None:
    assert spec(kind, batch=1) == spec(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arrivals", [None, [0, 7, 130], 0.02])
def test_a_batch_is_its_sequences_decoded_together(kind: str, arrivals: Any) -> None:
    several = spec(kind, batch=3, arrivals=arrivals) if arrivals else spec(kind, batch=3)
    assert isinstance(several, Batch)
    made = workloads.make(several)
    # the first sequence reads what it does alone, the others what their own streams say
    alone = [workloads.make(several.of) for _ in range(3)]
    combined = batch(alone, several.starts)
    assert made.timeline.to_mapping() == combined.timeline.to_mapping()
    assert (made.past_counts() == several.step_counts()[:, None]).all() or kind == "fang2025"
    first = made.timeline.sequence == 0
    for step in (0, 1, 149):
        for layer in range(2):
            own = made.reads(step, layer)
            expected = combined.reads(step, layer)
            assert own[first[own]].tolist() == expected[first[expected]].tolist()
    assert made.row_hashes() != combined.row_hashes()
    assert workloads.from_mapping(several.to_mapping()) == several
    assert (several.tokens, several.decode_steps) == (made.tokens, made.decode_steps)
    assert several.packed_bytes == sum(rows.size for rows in made.rows)
    assert bits.count(made.rows[0]).sum() == bits.count(combined.rows[0]).sum()


def test_arrivals_are_a_poisson_process_of_the_seed() -> None:
    one, again, other = (spec(batch=1000, arrivals=0.25, seed=seed) for seed in (1, 1, 2))
    assert isinstance(one, Batch)
    assert isinstance(again, Batch)
    assert isinstance(other, Batch)
    assert one.starts == again.starts != other.starts
    assert one.starts[0] == 0
    gaps = np.diff(one.starts)
    assert (gaps >= 0).all()
    assert 3.5 < gaps.mean() < 4.5
    assert 3.5 < gaps.std() < 4.8  # exponential


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 0}, "batch: expected an integer from 1 to 4,096, not 0"),
        (
            {"batch": 2, "arrivals": [0]},
            r"arrivals: expected the first step of each of 2 sequences, the earliest 0",
        ),
        ({"batch": 2, "arrivals": [1, 2]}, "the earliest 0"),
        ({"batch": 2, "arrivals": [0, -1]}, "the earliest 0"),
        ({"batch": 2, "arrivals": [0, 1.5]}, "the earliest 0"),
        (
            {"batch": 2, "arrivals": "0,2"},
            r"arrivals: expected a list of first steps such as \[0, 2, 4\], or how many",
        ),
        ({"batch": 4096, "decode_steps": 2**20}, "batch: expected at most 134,217,728 tokens in all"),
        ({"batch": 2, "arrivals": [0, 2**24]}, "batch: expected at most 16,777,216 steps times layers"),
        ({"batch": 2, "arrival": [0, 1]}, "arrival: expected one of"),
    ],
)
def test_other_batches_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec(**fields)
