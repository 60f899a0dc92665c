import itertools
import math

import numpy as np
import pytest
from scipy import stats

from kvbound import workloads
from kvbound.workloads import CountRule, RandomSwap

SPEC = RandomSwap(3, 300, 300, variation=0.2, seed=4)


def test_swaps_are_uniform_on_both_sides() -> None:
    made = workloads.make(SPEC)
    assert made.counts().tolist() == [[math.ceil(round(0.4 * n, 9))] * 3 for n in range(300, 600)]
    come, gone, shares = [], [], []
    for layer in range(3):
        sets = [set(made.reads(j, layer).tolist()) for j in range(300)]
        for n, (before, now) in enumerate(itertools.pairwise(sets), start=301):
            free, held = sorted(set(range(n)) - before), sorted(before)
            come += [np.searchsorted(free, token) / (len(free) - 1) for token in now - before]
            gone += [np.searchsorted(held, token) / (len(held) - 1) for token in before - now]
            shares.append((len(before - now) + 0.5) / (int(0.2 * len(now)) + 1))
    for ranks in (come, gone, shares):
        assert stats.kstest(ranks, "uniform").statistic < 2.5 / math.sqrt(len(ranks))


@pytest.mark.parametrize(
    ("rule", "count"),
    [(CountRule.CEIL_PAST, 40), (CountRule.ROUND_BEFORE, 40), (CountRule.CEIL_WITH_OWN, 41)],
)
def test_count_rules(rule: CountRule, count: int) -> None:
    made = workloads.make(RandomSwap(1, 100, 1, count_rule=rule))
    assert made.counts().tolist() == [[count]]


def test_reads_of_a_seed_never_change() -> None:
    assert workloads.make(RandomSwap(1, 48, 24)).row_hashes() == [
        "5b35625896ee937a0b821c3b2320abcd0a4f28b27eca2a80801331bb17bef289"
    ]
