from pathlib import Path

import numpy as np
import pytest

from kvbound.errors import InputError
from kvbound.trace import RowBuilder
from kvbound.trace.timeline import Timeline

LISTS = [[[0, 1], [2, 0]], [[1, 3], []], [[4, 0, 2], [3]]]  # steps x layers, first ids up to 2


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_do_not_depend_on_the_order_of_slots(tmp_path: Path, on_disk: bool) -> None:
    slots = [(step, layer) for step in range(3) for layer in range(2)]
    for seed in range(6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        builder = RowBuilder(
            Timeline.of(2, 3), np.array([[2, 2], [2, 0], [3, 1]]), "x", folder if on_disk else None
        )
        for at in np.random.default_rng(seed).permutation(6):
            step, layer = slots[at]
            builder.add(step, layer, np.array(LISTS[step][layer], np.int64), "x")
        for layer, order in enumerate(builder.order):
            assert order is not None
            assert order.ids.tolist() == [token for step in range(3) for token in LISTS[step][layer]]
        assert [row.tolist() for row in builder.rows[0][:, :1]] == [[0b11], [0b1010], [0b10101]]
        assert sorted(file.name for file in folder.iterdir()) == (
            [f"{kind}-00{layer}.npy" for kind in ("layer", "offsets", "order") for layer in (0, 1)]
            if on_disk
            else []
        )


def test_a_refused_list_leaves_no_bits_set() -> None:
    builder = RowBuilder(Timeline.of(2, 1), np.array([[2]]), "x")
    with pytest.raises(InputError):
        builder.add(0, 0, np.array([1, 1]), "x")
    builder.add(0, 0, np.array([0, 2]), "x")
    assert builder.rows[0][0, 0] == 0b101
