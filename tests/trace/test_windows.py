"""Sliding windows: when tokens leave them, and what reads are then refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.trace.timeline import Timeline

MEMORY: dict[str, Any] = {
    "name": "toy",
    "resources": {"fast": 4.0, "slow": 1.0},
    "tiers": [
        {"name": "hbm", "capacity": 2, "reads": ["fast"], "writes": ["fast"]},
        {"name": "ddr", "capacity": None, "reads": ["slow"], "writes": ["slow"]},
    ],
}


def of(reads: Any, prefill: int, windows: Any, rules: Any = None, **parts: Any) -> Instance:
    llm = {
        "name": "toy", "layers": len(windows), "kv_bytes_per_token_layer": 1, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 0, "windows": windows,
    }  # fmt: skip
    trace = {"prefill_tokens": prefill, "reads": reads} | parts
    return make_instance(
        "toy", memory=MEMORY, llm=llm, trace=trace, rules={"windows": "ends"} | (rules or {})
    )


def test_a_token_ends_in_the_last_step_whose_window_contains_it() -> None:
    plain = Timeline.of(3, 3)
    assert plain.windowed(2).ends.tolist() == [-1, -1, 0, 1, 2, 3]
    assert plain.windowed(1).ends.tolist() == [-1, -1, -1, 0, 1, 2]
    assert plain.windowed(4).ends.tolist() == [0, 1, 2, 3, 3, 3]
    assert plain.windowed(7) is plain
    assert plain.windowed(2).live.tolist() == [1, 1, 1, 1]


def test_positions_are_those_in_a_sequence() -> None:
    """Of two sequences, one of the prompt's 0, 2 and of 4, the other of 1, 3 and 5, born in steps 0 and 1."""
    batch = Timeline.of(4, 2, sequence=[0, 1, 0, 1, 0, 1])
    assert batch.windowed(2).ends.tolist() == [-1, -1, 0, 1, 2, 2]
    ended = Timeline.of(4, 2, sequence=[0, 1, 0, 1, 0, 1], ends=[None, None, None, 0, None, None])
    assert ended.windowed(2).ends.tolist() == [-1, -1, 0, 0, 2, 2]


def test_an_arriving_prompt_longer_than_the_window_ends_where_it_is_born() -> None:
    arriving = Timeline.of(0, 3, births=[3, 1, 1])
    assert arriving.windowed(2).ends.tolist() == [0, 0, 1, 2, 3]


def test_layers_with_the_same_window_share_a_timeline() -> None:
    instance = of([[[], [], []]], 2, [None, 2, 2])
    assert instance.timelines[0] is instance.timeline
    assert instance.timelines[1] is instance.timelines[2] is not instance.timeline
    assert instance.live.tolist() == [[2, 1, 1], [3, 1, 1]]


def test_windows_are_opt_in() -> None:
    ignored = of([[[0, 1]]], 2, [2], {"windows": "ignore"})
    assert "windows" not in ignored.expanded()["llm"]
    assert "windows" not in ignored.expanded()["rules"]
    assert ignored.timelines == (ignored.timeline,)


def test_reads_outside_the_window_are_refused() -> None:
    expected = "trace, step 0, layer 1: expected within the window of 2 tokens, no read of token 0"
    with pytest.raises(InputError, match=expected):
        of([[[0], [0, 1]]], 2, [None, 2])
    with pytest.raises(InputError, match="the window of at least one layer"):
        of([[[0]]], 2, [None])


def test_windows_make_room_by_hand() -> None:
    """Two tokens fit. Without ends the prompt's three must share; with a window of 2 only one is left.

    A step reads token 2, then token 3. With windows both are always in tier 0 when read: 1/4 s each, but a
    birth is written through in 1 s: 1 s a step. Exclusive copies write each birth to one tier: read and
    written in tier 0, 2/4 s a step; in the last step as well.
    """
    reads = [[[2]], [[3]]]
    inclusive = of(reads, 3, [2])
    assert kv.solve(inclusive, "exact").time_s == pytest.approx(2)
    exclusive = of(reads, 3, [2], {"copies": "exclusive"})
    assert kv.solve(exclusive, "exact").time_s == pytest.approx(1)
    assert kv.solve(exclusive, "brute").time_s == pytest.approx(1)
    # all 3 + 2 tokens stay: tier 0 holds tokens 2 and 3; token 4 goes there in place of one of them, unread
    staying = of(reads, 3, [2], {"copies": "exclusive", "windows": "ignore"})
    assert kv.solve(staying, "brute").time_s == pytest.approx(kv.solve(staying, "exact").time_s)
    assert (kv.solve(staying, "exact").time_s or 0) > 1.2


def test_a_share_of_capacity_knows_windows() -> None:
    memory = MEMORY | {"tiers": [MEMORY["tiers"][0] | {"capacity": "50%"}, MEMORY["tiers"][1]]}
    llm = {
        "name": "toy", "layers": 2, "kv_bytes_per_token_layer": 2, "weight_bytes": 3,
        "weight_read_bytes_per_layer": 0, "windows": [None, 3],
    }  # fmt: skip
    trace = {"prefill_tokens": 8, "reads": [[[0], [7]], [[0], [8]]]}
    for rules, live in (({"windows": "ends"}, 10 + 2), ({}, 20)):
        instance = make_instance("x", memory=memory, llm=llm, trace=trace, rules=rules)
        assert instance.memory.tiers[0].capacity == 3 + live


def test_with_windows_as_long_as_the_run_nothing_changes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        lists = [[np.flatnonzero(rng.random(4 + step) < 0.6).tolist()] for step in range(3)]
        long, plain = of(lists, 4, [7]), of(lists, 4, [7], {"windows": "ignore"})
        assert long.sha256 != plain.sha256
        assert kv.solve(long, "exact").time_s == kv.solve(plain, "exact").time_s
