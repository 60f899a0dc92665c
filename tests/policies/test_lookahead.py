"""Keep what the next step reads, up to the share at which both tiers finish together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.instance_io import make_instance
from kvbound.policies.base import Birth
from kvbound.policies.lookahead import balanced_share
from kvbound.simulation import simulate
from tests.instance_documents import llm, two_tiers
from tests.policies.cases import medium_instance
from tests.policies.spy import births, resident, watch


@pytest.mark.parametrize("batch", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_swaps_follow_the_published_rule(batch: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng, tiers=2, granularity=1, batch=batch)
    share = balanced_share(instance.memory)
    for slot, wish, soon in watch(instance, "lookahead-one"):
        for token, birth in enumerate(births(slot, wish), slot.tokens):
            assert birth is (Birth.MAKE_ROOM if token in soon else Birth.SLOW)
        if not soon:
            assert len(wish.promote) == 0
            continue
        inside, listed = set(resident(slot)), slot.listed.tolist()
        hits = len(inside & soon)
        weights, size = instance.llm.weight_reads[slot.layer], instance.item_bytes[slot.layer]
        delta = int((share * (weights + len(soon) * size) - weights) / size) - hits
        candidates = [token for token in listed if token in soon and token not in inside]
        victims = [token for token in listed if token in inside and token not in soon]
        taken = candidates[: max(0, min(delta, hits))][: slot.room + len(victims)]
        assert wish.promote.tolist() == taken
        leaving = victims[: max(0, len(taken) - slot.room)]
        others = sorted(inside - soon - set(leaving))
        # new tokens displace the lowest ids that the next step does not read
        assert wish.evict.tolist() == leaving + others


def test_the_new_token_displaces_the_oldest_idle_one() -> None:
    """Token 3 is read in step 1; 0 and 2 are in tier 0 and both idle, 2 read just before."""
    trace = {"prefill_tokens": 3, "reads": [[[2, 0]], [[3]]]}
    instance = make_instance("t", memory=two_tiers(8, 1, 2), llm=llm(), trace=trace)
    schedule = simulate(instance, "lookahead-one").schedule
    assert schedule is not None
    assert schedule.initial.tolist() == [[0, 1, 0]]
    events = schedule.events[0]
    first = events.step == 0
    assert dict(zip(events.token[first].tolist(), events.tier[first].tolist(), strict=True)) == {0: 1, 3: 0}


def test_balanced_share_of_the_paper() -> None:
    trace = {"prefill_tokens": 1, "reads": [[[0]] * 32]}
    instance = make_instance("t", memory="gh200-144", llm="llama-3.1-8b-mha", trace=trace)
    assert balanced_share(instance.memory) == pytest.approx(4900 / (4900 + 450))
