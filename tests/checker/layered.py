"""Small instances whose layers differ, as the checker reads them, and files for them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvbound.checker import Report, check
from kvbound.checker.inputs import instance_sha256

Reads = list[list[list[int]]]
"""Token ids by step and layer."""


@dataclass(frozen=True)
class Layered:
    """An expanded instance on tiers whose reads and writes load a resource each: 4 B/s, 1 B/s, 1/2 B/s."""

    reads: Reads
    prefill: int
    sizes: Any = 1
    windows: list[int | None] | None = None
    capacity: tuple[int | None, ...] = (None, None)
    formats: dict[str, Any] = field(default_factory=dict)
    weights: int = 0
    weight_reads: float | list[float] = 0.0
    placement: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.0
    rules: dict[str, Any] = field(default_factory=dict)
    trace: dict[str, Any] = field(default_factory=dict)
    routing: Reads | None = None
    """Experts named, by step and layer."""

    @property
    def steps(self) -> int:
        return len(self.reads)

    @property
    def layers(self) -> int:
        return len(self.reads[0])

    @property
    def born(self) -> list[int]:
        births = self.trace.get("births", [1] * self.steps)
        return [-1] * self.prefill + [step for step, count in enumerate(births) for _ in range(count)]

    @property
    def weights_read(self) -> list[float]:
        """Bytes of weights that each layer reads, wherever they are."""
        reads = self.weight_reads
        return reads if isinstance(reads, list) else [reads] * self.layers

    def block(self, layer: int) -> int:
        """Bytes of a block of a layer in tier 0."""
        size = self.sizes[layer] if isinstance(self.sizes, list) else self.sizes
        return int(self.rules.get("granularity", 1) * size)

    def experts(self, layer: int) -> list[int]:
        """Sizes of a layer's experts in blocks of tokens, if the trace names experts."""
        if self.routing is None:
            return []
        blocks = self.placement["expert_bytes"][layer] // self.block(layer)
        return [blocks] * self.placement["experts"][layer] if blocks else []

    def chunks(self, layer: int) -> list[int]:
        """Sizes of a layer's chunks of weights, in blocks of tokens, those of experts last."""
        return self.others(layer) + self.experts(layer)

    def others(self, layer: int) -> list[int]:
        """Sizes of the chunks that every slot reads."""
        if self.placement.get("weights") != "placeable":
            return []
        block, read = self.block(layer), self.weights_read[layer]
        if self.routing is not None and self.placement["experts"][layer]:
            read -= self.placement.get("experts_read", 0) * self.placement["expert_bytes"][layer]
        left = int(read)
        largest = max(self.placement.get("weight_chunk_bytes", left) // block, 1)
        found = []
        while left >= block:
            found.append(min(left // block, largest))
            left -= found[-1] * block
        return found

    @property
    def first(self) -> int:
        """Id of token 0: chunks of weights have those before it."""
        return -(-max(len(self.chunks(layer)) for layer in range(self.layers)) // 64) * 64

    @property
    def rows(self) -> list[Any]:
        """What the checker reads: bits of tokens and, if the trace names experts, then those of experts."""
        return self.token_rows + self.expert_rows

    @property
    def expert_rows(self) -> list[Any]:
        packed = np.zeros((self.layers, self.steps, 8), np.uint8)
        if self.routing is None:
            return []
        for step, layer in np.ndindex(self.steps, self.layers):
            for expert in self.routing[step][layer]:
                packed[layer, step, expert >> 3] |= 1 << (expert & 7)
        return list(packed)

    @property
    def token_rows(self) -> list[Any]:
        packed = np.zeros((self.layers, self.steps, 8 * -(-len(self.born) // 64)), np.uint8)
        for step, layer in np.ndindex(self.steps, self.layers):
            for token in self.reads[step][layer]:
                packed[layer, step, token >> 3] |= 1 << (token & 7)
        return list(packed)

    @property
    def expanded(self) -> dict[str, Any]:
        count = len(self.capacity)
        rates = {f"{way}{k}": 4.0 if k == 0 else 1.0 / k for k in range(count) for way in ("down", "up")}
        tiers = [
            {
                "name": f"t{k}", "capacity": self.capacity[k], "reads": [f"down{k}"], "writes": [f"up{k}"],
                "latency": self.latency,
            }
            for k in range(count)
        ]  # fmt: skip
        usual = {
            "copies": "exclusive", "migration": "prefetch", "timing": "serial", "initial": "free",
            "granularity": 1, "accounting": "physical",
        }  # fmt: skip
        llm = {
            "name": "some", "layers": self.layers, "kv_bytes_per_token_layer": self.sizes,
            "weight_bytes": self.weights, "weight_read_bytes_per_layer": self.weights_read,
        } | self.placement  # fmt: skip
        made: dict[str, Any] = {
            "schema": "kvbound.instance/1", "name": "some",
            "memory": {"name": "some", "resources": rates, "tiers": tiers}, "llm": llm,
            "trace": {
                "layers": self.layers, "prefill_tokens": self.prefill, "decode_steps": self.steps,
                "sha256": [hashlib.sha256(layer.tobytes()).hexdigest() for layer in self.token_rows],
            } | self.trace,
            "rules": usual | self.rules,
        }  # fmt: skip
        if self.routing is not None:
            hashes = [hashlib.sha256(layer.tobytes()).hexdigest() for layer in self.expert_rows]
            made["trace"]["experts_sha256"] = hashes
        if self.windows is not None:
            llm["windows"] = self.windows
            made["rules"] = usual | self.rules | {"windows": "ends"}
        made |= {"latency": "path"} if self.latency else {}
        return made | ({"formats": self.formats} if self.formats else {})

    def edited(self, way: tuple[Any, ...], value: Any) -> dict[str, Any]:
        """The expanded instance with a field, named by its keys, set to a value, or deleted if it is ..."""
        expanded = copy.deepcopy(self.expanded)
        place: Any = expanded
        for key in way[:-1]:
            place = place[key]
        if value is ...:
            del place[way[-1]]
        else:
            place[way[-1]] = value
        return expanded

    @property
    def sha256(self) -> str:
        expanded, trace = self.expanded, self.expanded["trace"]
        return instance_sha256(expanded, trace["sha256"] + trace.get("experts_sha256", []))

    def checked(self, arrays: dict[str, Any], **more: Any) -> Report:
        own = {"instance_sha256": np.array(self.sha256)}
        return check(self.expanded, self.rows, own | arrays, **more)

    def schedule(self, initial: Any, events: list[tuple[int, int, int, int]] = []) -> dict[str, Any]:  # noqa: B006
        """A schedule's arrays, from events of step, layer, id (a token's number or chunk's) and tier."""
        born = [-1] * self.first + self.born
        rows = [
            (step * self.layers + layer, born[token] == step, layer * len(born) + token, tier)
            for step, layer, token, tier in events
        ]
        slot, _, item, tier = np.array(sorted(rows), np.int64).reshape(-1, 4).T
        return {
            "schema": np.array("kvbound.schedule/1"), "initial": np.array(initial, np.uint8),
            "slot": slot, "item": item, "tier": tier.astype(np.uint8),
        }  # fmt: skip

    def certificate(self, **more: Any) -> dict[str, Any]:
        """A certificate's arrays: all prices are zero unless given."""
        tiers, slots = len(self.capacity), (self.steps, self.layers)
        return {
            "schema": np.array("kvbound.certificate/1"), "bound_s": np.float64(-1e300), "scale": np.int64(0),
            "capacity": np.zeros((tiers, 1 + slots[0] * slots[1]), np.int64), "tier": np.int64(tiers - 1),
            "prices": np.zeros((3 * tiers, *slots), np.int64), "whole": np.full(slots, -1),
            "theta": np.zeros((2 << tiers * (self.latency > 0), 2 * tiers, *slots), np.int64),
        } | more  # fmt: skip
