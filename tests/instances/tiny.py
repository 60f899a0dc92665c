"""The tiny set: made by hand, small enough to enumerate, one rule or corner of the model each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.instances.layout import document

Trace = dict[str, Any]
Rule = dict[str, Any]


def toy(near: int = 3, latency: tuple[float, float] = (0, 0)) -> dict[str, Any]:
    """Two tiers, four times as fast near as over the link; the far one keeps up with reads and writes."""
    return {
        "name": "toy",
        "resources": {"fast": 4, "down": 1, "up": 1, "slow": 2},
        "tiers": [
            {"name": "near", "capacity": near, "reads": ["fast"], "writes": ["fast"], "latency": latency[0]},
            {
                "name": "far", "capacity": None, "reads": ["down", "slow"], "writes": ["up", "slow"],
                "latency": latency[1],
            },
        ],
    }  # fmt: skip


def toy_three() -> dict[str, Any]:
    """Three tiers; the two slower ones share a link."""
    return {
        "name": "toy-three",
        "resources": {"fast": 8, "link": 4, "middle": 3, "disk": 1},
        "tiers": [
            {"name": "near", "capacity": 1, "reads": ["fast"], "writes": ["fast"]},
            {"name": "mid", "capacity": 2, "reads": ["link", "middle"], "writes": ["link", "middle"]},
            {"name": "far", "capacity": None, "reads": ["link", "disk"], "writes": ["link", "disk"]},
        ],
    }


def toy_equal(near: int) -> dict[str, Any]:
    """Two tiers that read at the same rate; what is written queues apart."""
    return {
        "name": "toy-equal",
        "resources": {"left": 1, "left_in": 1, "right": 1, "right_in": 1},
        "tiers": [
            {"name": "near", "capacity": near, "reads": ["left"], "writes": ["left_in"]},
            {"name": "far", "capacity": None, "reads": ["right"], "writes": ["right_in"]},
        ],
    }


CHURN: Trace = {
    "prefill_tokens": 5,
    "reads": [[[0, 1, 2]], [[0, 3, 4]], [[0, 3, 4, 6]], [[1, 2, 7]], [[1, 2, 5, 7]]],
}
"""1 layer: a group is left, another comes, the first comes back; two births are read."""
BURSTS: Trace = {"prefill_tokens": 5, "reads": [[[0, 1, 2]], [[]], [[3, 4, 5]], [[]], [[0, 1, 2]]]}
"""1 layer: quiet steps, in which the link could work ahead, between busy ones."""
OWN: Trace = {
    "prefill_tokens": 3,
    "reads": [[[0, 1, 2, 3]], [[0, 2, 3, 4]], [[0, 1, 2, 5]], [[1, 3, 5, 6]]],
}
"""1 layer: every step also reads the token it produces."""
PAIRS: Trace = {
    "prefill_tokens": 5,
    "reads": [[[1, 3, 4]], [[0, 1, 5]], [[0, 2, 5]], [[2, 3]], [[1, 2, 4, 6, 7, 8]]],
}
"""1 layer: for blocks of two, some of them read in part."""
LAYERS: Trace = {
    "prefill_tokens": 3,
    "reads": [[[0, 1], [1, 2]], [[0, 3], [1, 2, 3]], [[1, 4], [0, 4]]],
}
"""2 layers that want different tokens and share the room."""
SHORT: Trace = {"prefill_tokens": 3, "reads": [[[0, 1, 2]], [[3]], [[2, 3, 4]], [[0, 1, 5]]]}
"""1 layer: for three tiers."""
WHOLE_PROMPT: Trace = {"prefill_tokens": 4, "reads": [[[0, 1, 2, 3]]] * 3}
"""1 layer: the whole prompt in every step."""


def documents() -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    prefetch: Rule = {"migration": "prefetch"}
    none: Rule = {"migration": "none"}
    exclusive: Rule = {"copies": "exclusive"}
    serial: Rule = {"timing": "serial"}
    yield _instance("on-read", CHURN)
    yield _instance("none", CHURN, **none)
    yield _instance("serial", CHURN, **serial)
    yield _instance("prefill-first", CHURN, initial="prefill-first")
    yield _instance("exclusive", CHURN, **exclusive)
    yield _instance("exclusive-none", CHURN, **exclusive, **none)
    yield _instance("exclusive-serial", CHURN, **exclusive, **serial)
    yield _instance("no-weights", CHURN, weights=0)
    yield _instance("no-room", CHURN, toy(near=0))
    yield _instance("latency", CHURN, toy(latency=(0.25, 0.5)))
    yield _instance("latency-serial", CHURN, toy(latency=(0.25, 0.5)), **serial)
    yield _instance("own-reads", OWN, toy(near=1))
    yield _instance("bursts", BURSTS, toy(near=2), weights=4)
    yield _instance("prefetch", BURSTS, toy(near=2), weights=4, **prefetch)
    yield _instance("exclusive-prefetch", BURSTS, toy(near=2), weights=4, **exclusive, **prefetch)
    yield _instance("layers", LAYERS)
    yield _instance("layers-exclusive-prefetch", LAYERS, **exclusive, **prefetch)
    yield _instance("blocks", PAIRS, toy(near=4), weights=4, granularity=2)
    yield _instance("blocks-prefetch", PAIRS, toy(near=4), weights=4, granularity=2, **prefetch)
    yield _instance("blocks-exclusive", PAIRS, toy(near=4), weights=4, granularity=2, **exclusive)
    yield _instance("three", SHORT, toy_three(), weights=8)
    yield _instance("three-none", SHORT, toy_three(), weights=8, **none)
    yield _instance("three-exclusive", SHORT, toy_three(), weights=8, **exclusive)
    yield _instance("three-exclusive-serial", SHORT, toy_three(), weights=8, **exclusive, **serial)
    for room in range(5):
        rules = exclusive | none | {"initial": "prefill-first"}
        yield _instance(f"fill-{room}", WHOLE_PROMPT, toy_equal(near=room), weights=0, **rules)


def _instance(
    name: str, trace: Trace, memory: dict[str, Any] | None = None, *, weights: int = 2, **rules: Any
) -> dict[str, Any]:
    llm = {
        "name": "toy",
        "layers": len(trace["reads"][0]),
        "kv_bytes_per_token_layer": 1,
        "weight_bytes": 0,
        "weight_read_bytes_per_layer": weights,
    }
    return document(f"tiny-{name}", memory or toy(), llm, trace, rules)
