"""Look ahead over a window, promote the best share."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import UsageError
from kvbound.policies import make_policy
from kvbound.policies.base import Birth
from kvbound.simulation import simulate
from tests.policies.cases import medium_instance
from tests.policies.spy import births, resident, watch


@pytest.mark.parametrize("batch", [False, True])
@given(seed=st.integers(0, 2**32 - 1), window=st.integers(1, 20), topk=st.sampled_from([0.1, 0.3, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_promotes_by_the_published_score(batch: bool, seed: int, window: int, topk: float) -> None:
    instance = medium_instance(np.random.default_rng(seed), granularity=1, batch=batch)
    trace = instance.trace
    for slot, wish, soon in watch(instance, "sa-guided", window=window, topk=topk):
        score: dict[int, float] = {}
        for offset in range(1, window + 1):
            if slot.step + offset < instance.decode_steps:
                for token in trace.reads(slot.step + offset, slot.layer).tolist():
                    score[token] = score.get(token, 0.0) + 1 / offset
        candidates = [token for token in slot.reads.tolist() if slot.tier[token] > 0 and token in score]
        candidates.sort(key=lambda token: (-score[token], token))
        assert wish.promote.tolist() == candidates[: math.ceil(topk * len(candidates))]
        assert wish.evict.tolist() == [token for token in resident(slot) if token not in score]
        for token, birth in enumerate(births(slot, wish), slot.tokens):
            assert birth is (Birth.MAKE_ROOM if token in soon else Birth.SLOW)


@pytest.mark.parametrize(
    ("option", "value"),
    [("window", 0), ("window", 2.5), ("window", "5"), ("topk", 0), ("topk", 2), ("topk", math.nan)],
)  # fmt: skip
def test_invalid_settings(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match="sa-guided needs"):
        make_policy("sa-guided", **{option: value})


def test_a_window_beyond_the_end_is_the_rest_of_the_trace() -> None:
    instance = medium_instance(np.random.default_rng(4))
    end = simulate(instance, "sa-guided", window=instance.decode_steps)
    assert simulate(instance, "sa-guided", window=10**15).measures == end.measures
