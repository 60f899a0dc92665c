import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kvbound.workloads.draw import draw


@given(st.integers(0, 50), st.data())
def test_two_disjoint_samples_of_the_pool(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size))
    second = data.draw(st.integers(0, size - first))
    pool = np.arange(size) * 3 + 7
    one, two = draw(pool, first, second, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert (len(one), len(two)) == (first, second)
    assert len({*one.tolist(), *two.tolist()}) == first + second
    assert {*one.tolist(), *two.tolist()} <= set(pool.tolist())


@pytest.mark.parametrize(("first", "second"), [(0, 4), (4, 0), (1, 3), (3, 2)])
def test_every_pair_of_samples_is_equally_likely(first: int, second: int) -> None:
    rng = np.random.default_rng(5)
    seen: dict[tuple[tuple[int, ...], ...], int] = {}
    runs = 6_000
    for _ in range(runs):
        sample = tuple(tuple(sorted(part.tolist())) for part in draw(np.arange(6), first, second, rng))
        seen[sample] = seen.get(sample, 0) + 1
    kinds = {(0, 4): 15, (4, 0): 15, (1, 3): 60, (3, 2): 60}[first, second]
    assert len(seen) == kinds
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3
