"""An instance: a memory, a language model, the reads of a decode run, and the rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound import canonical, workloads
from kvbound.blocks import Blocks, largest_sum
from kvbound.consistency import (
    check_experts,
    check_objective,
    check_reads,
    check_rules,
    checked_formats,
    ending_windows,
)
from kvbound.errors import InfeasibleError, InputError
from kvbound.fields import MAX_BYTES, located
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.objective import TIME_ALONE, Objective, Prices
from kvbound.rules import Accounting, Copies, Overlap, Rules, Windows
from kvbound.trace import Trace
from kvbound.trace.timeline import Timeline
from kvbound.weights import Chunks
from kvbound.workloads import Synthetic

SCHEMA = "kvbound.instance/1"
LATENCY = "path"
"""What latencies mean, named in instances that have any: reads wait, each on the path of its own tier."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Instance:
    """One problem: a memory, a language model, the reads of a decode run, and the rules.

    Attributes
    ----------
    workload
        The read trace, or the description of a synthetic one.
    formats
        Bytes of one token's KV in a layer, by tier name, for the tiers with another number format than the
        llm's: one number, or one per layer if layers differ. In every layer they are in the same ratio to the
        llm's.
    objective
        What is minimised; by default decode time alone.
    """

    name: str
    memory: Memory
    llm: Llm
    rules: Rules
    workload: Trace | Synthetic
    formats: Mapping[str, int | tuple[int, ...]] = dataclasses.field(default_factory=dict)
    objective: Objective = TIME_ALONE

    def __post_init__(self) -> None:
        formats = checked_formats(self.name, self.memory, self.llm, self.formats)
        object.__setattr__(self, "formats", formats)
        if self.workload.layers != self.llm.layers:
            expected = f"{self.llm.layers} layers like the llm {self.llm.name!r}, not {self.workload.layers}"
            raise InputError(self.name, "trace.layers", expected)
        check_experts(self.name, self.llm, self.workload.expert_counts)
        _ = self.chunks  # validated
        size = self.workload.tokens * sum(self.llm.kv_sizes) * max(self.unit_sizes) // self.unit_sizes[0]
        if size > MAX_BYTES:  # so that no count of bytes overflows
            raise InputError(self.name, "llm", f"at most {MAX_BYTES:,} bytes of KV in all, not {size:,}")
        check_rules(self.name, self.rules, self.llm, self.workload.timeline, self.formats)
        check_objective(self.name, self.objective, self.rules)
        _ = self.prices  # validated
        if isinstance(self.workload, Trace):
            self._check_reads(self.workload)

    def _check_reads(self, trace: Trace) -> None:
        check_reads(self.name, self.llm, trace, self.token_timelines)

    def __repr__(self) -> str:
        """Return name and sizes, in a line."""
        prompt = self.workload.prefill_tokens
        tokens = f"{prompt:,} + {self.workload.tokens - prompt:,} tokens"
        return f"<Instance {self.name}: {self.layers} layers, {tokens}, {self.memory.name}, {self.llm.name}>"

    @cached_property
    def prices(self) -> Prices:
        """What the objective charges for time and for bytes."""
        with located(self.name, "objective"):
            return self.objective.prices(self.memory)

    @property
    def layers(self) -> int:
        """Layers, L."""
        return self.llm.layers

    @property
    def prefill_tokens(self) -> int:
        """Ids that exist before the first step: prompt tokens, P, after those of the weights' chunks."""
        return self.chunks.ids + self.workload.prefill_tokens

    @property
    def decode_steps(self) -> int:
        """Decode steps, N."""
        return self.workload.decode_steps

    @cached_property
    def chunks(self) -> Chunks:
        """The chunks of placeable weights; none if weights are resident."""
        return Chunks.of(self.llm, self.granularity, routed=bool(self.workload.expert_counts))

    @cached_property
    def timeline(self) -> Timeline:
        """Births of all ids, and the ends of tokens in layers without a window.

        The ends of ids before the tokens are those of the first layer's chunks.
        """
        return self.chunks.timelines((self.workload.timeline,) * self.layers)[0]

    @property
    def tokens(self) -> int:
        """Ids in a layer: chunks, prompt and born tokens; P + N where one token is born in every step."""
        return self.chunks.ids + self.workload.tokens

    @property
    def slots(self) -> int:
        """Slots, N * L."""
        return self.decode_steps * self.layers

    @property
    def by_step(self) -> bool:
        """Whether the transfers of all layers end with the step: layers then have no times of their own."""
        return self.rules.overlap is Overlap.STEP and self.layers > 1

    def timed(self, counts: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        """Add up what is timed together, of what the slots of a step transfer.

        Parameters
        ----------
        counts
            With the layers on one axis. It has length 1 afterwards if transfers end with the step.
        """
        return counts.sum(axis=axis, keepdims=True) if self.by_step else counts

    @cached_property
    def timed_units(self) -> Ints:
        """Units that an item of each layer counts as where layers are timed together, else 1, (layers,)."""
        return self.units if self.by_step else np.ones_like(self.units)

    @cached_property
    def timelines(self) -> tuple[Timeline, ...]:
        """Births and ends of the tokens in each layer, shape (layers,); one object for layers that are alike.

        They differ only in layers with a sliding window, if tokens end when they leave it, and where layers
        have different numbers of chunks of weights.
        """
        return self.chunks.timelines(self.token_timelines)

    @cached_property
    def token_timelines(self) -> tuple[Timeline, ...]:
        """The same for the tokens alone."""
        return self.workload.timeline.by_layer(ending_windows(self.rules, self.llm))

    @cached_property
    def block_units(self) -> Ints:
        """Units that each block takes, shape (layers, blocks); see `capacity_units`."""
        return self.chunks.sizes(self.blocks) * self.units[:, None]

    @cached_property
    def id_counts(self) -> Ints:
        """Items of its layer that each id counts as, shape (layers, tokens): 1 but for chunks of weights."""
        return self.chunks.sizes(self.tokens, self.granularity)

    @cached_property
    def weight_reads(self) -> Floats:
        """Bytes of resident weights that each layer reads in a slot, from tier 0, shape (layers,)."""
        return self.chunks.resident_reads(self.llm, self.granularity)

    @cached_property
    def placeable_bytes(self) -> Ints:
        """Bytes of each layer's weights that may be placed, shape (layers,)."""
        return self.chunks.bytes(self.llm, self.granularity)

    @cached_property
    def resident_bytes(self) -> int:
        """Bytes of the weights that stay in tier 0."""
        return int(self.llm.weight_bytes) - int(self.placeable_bytes.sum())

    @cached_property
    def unit_sizes(self) -> tuple[int, ...]:
        """Bytes of a unit by tier, shape (K,): the greatest common divisor of the layers' KV per token."""
        given = (self.formats.get(tier.name, self.llm.kv_sizes) for tier in self.memory.tiers)
        return tuple(math.gcd(*sizes) if isinstance(sizes, tuple) else sizes for sizes in given)

    @cached_property
    def units(self) -> Ints:
        """Units of one token's KV in each layer, in any tier, shape (layers,); all 1 if layers are alike."""
        sizes = np.array(self.llm.kv_sizes, np.int64)
        units = sizes // np.gcd.reduce(sizes)
        units.flags.writeable = False
        return units

    @cached_property
    def item_bytes(self) -> Ints:
        """Bytes of one token's KV in each layer, in tier 0, shape (layers,)."""
        sizes = self.units * self.unit_sizes[0]
        sizes.flags.writeable = False
        return sizes

    @cached_property
    def live(self) -> Ints:
        """Past tokens that exist in each layer when each step begins, and in the end, (steps + 1, layers)."""
        return np.stack([timeline.live for timeline in self.token_timelines], axis=1)

    @property
    def live_items(self) -> Ints:
        """The same with the chunks of weights, counted as items."""
        return self.live + self.granularity * self.chunks.blocks.sum(axis=1)

    @property
    def uniform(self) -> bool:
        """Whether items of all layers have the same size."""
        return bool((self.units == 1).all())

    @property
    def granularity(self) -> int:
        """Tokens per block, g."""
        return self.rules.granularity

    @cached_property
    def grouping(self) -> Blocks:
        """Division of every layer's tokens into blocks."""
        return Blocks.make(self.timeline, self.granularity, self.timelines)

    @property
    def blocks(self) -> int:
        """Blocks per layer, counting all that exist at some time."""
        return self.grouping.count

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.memory.tiers)

    @property
    def inclusive(self) -> bool:
        """Whether the last tier keeps a copy of everything."""
        return self.rules.copies is Copies.INCLUSIVE

    @property
    def physical(self) -> bool:
        """Whether the accounting is `physical`, that of docs/model.md."""
        return self.rules.accounting is Accounting.PHYSICAL

    @cached_property
    def trace(self) -> Trace:
        """The reads. A synthetic trace is made, or opened in the cache, when it is first used.

        Much of an instance can be computed without its trace, and large ones take minutes and gigabytes, so
        it is not made before it is needed.

        Raises
        ------
        UsageError
            The trace fits neither the cache nor the disk.
        """
        made = self.token_trace
        return self.chunks.trace(made, self.timeline) if self.chunks.ids else made

    @cached_property
    def token_trace(self) -> Trace:
        """The reads of tokens alone, and the experts that slots name; see `trace`."""
        if isinstance(self.workload, Trace):
            return self.workload
        made = workloads.make(self.workload)
        self._check_reads(made)
        return made

    def read_counts(self) -> NDArray[np.int64]:
        """Reads of past items in each slot, shape (steps, layers); a synthetic trace is not made for it.

        A read of a chunk of weights counts as the reads of as many tokens as take the same bytes.
        """
        counts = self.token_read_counts()
        return counts + self.chunk_read_counts() if self.chunks.ids else counts

    def chunk_read_counts(self) -> NDArray[np.int64]:
        """Reads of chunks of weights alone, shape (steps, layers), or (1, layers) if all steps are alike."""
        return self.granularity * self.chunks.blocks_read(self.workload.experts)

    def token_read_counts(self) -> NDArray[np.int64]:
        """Reads of past tokens alone, shape (steps, layers)."""
        if isinstance(self.workload, Trace):
            return self.workload.past_counts() if self.physical else self.workload.counts()
        return workloads.shape(self.workload)[3]

    @cached_property
    def capacity_units(self) -> tuple[int | None, ...]:
        """Room of each tier beside the resident weights; None is unlimited.

        A block of a layer takes `units` of it: where layers are alike, this is the number of blocks that fit.
        Computed in integers of any size; all checks of capacity use these numbers.

        Raises
        ------
        InfeasibleError
            The weights, or all blocks together, do not fit.
        """
        rooms: list[int | None] = []
        for tier, k in zip(self.memory.tiers, range(self.tiers), strict=True):
            if tier.capacity is None:
                rooms.append(None)
                continue
            free = int(tier.capacity) - (self.resident_bytes if k == 0 else 0)
            if free < 0:
                raise InfeasibleError(
                    f"{self.name}: the weights ({self.resident_bytes:,} B) do not fit into "
                    f"{tier.name} ({tier.capacity:,} B)"
                )
            rooms.append(free // (self.granularity * self.unit_sizes[k]))
        total, most = self.most_held, self._together(rooms)
        if most is not None and most < total:
            where = f"the last tier {self.memory.tiers[-1].name}" if self.inclusive else "all tiers together"
            size, what = self.granularity * self.unit_sizes[-1], "blocks" if self.uniform else "units of KV"
            raise InfeasibleError(f"{self.name}: {total:,} {what} of {size:,} B do not fit into {where}")
        return tuple(rooms)

    @cached_property
    def room_units(self) -> Ints:
        """Room of each tier in units, shape (K,), where unlimited means enough for all blocks."""
        unlimited = int(self.block_units.sum())
        room = np.array([unlimited if limit is None else limit for limit in self.capacity_units], np.int64)
        room.flags.writeable = False
        return room

    @cached_property
    def most_held(self) -> int:
        """Units of the blocks that exist at the start or after a slot, at most."""
        tokens = self.grouping
        if self.chunks.ids:
            tokens = Blocks.make(self.workload.timeline, self.granularity, self.token_timelines)
        chunks = int(self.chunks.blocks.sum(axis=1) @ self.units)
        return chunks + int(largest_sum(tokens.held_counts * self.units))

    @property
    def most_units(self) -> int | None:
        """Units that fit into all tiers together; as for `capacity_units`."""
        return self._together(self.capacity_units)

    def _together(self, rooms: Sequence[int | None]) -> int | None:
        """Add up rooms; with inclusive copies the last tier holds every block."""
        holding = [room for room in (rooms[-1:] if self.inclusive else rooms) if room is not None]
        return None if rooms[-1] is None else sum(holding)

    def document(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document of an instance file, everything spelled out, given its entry for the trace."""
        formats = {
            tier: {"bytes": list(size) if isinstance(size, tuple) else size}
            for tier, size in self.formats.items()
        }
        more: dict[str, Any] = {}
        if self.rules.windows is Windows.ENDS:
            more["windows"] = list(self.llm.windows)
        if self.workload.expert_counts:
            more |= self.llm.experts_mapping()
        return {
            "schema": SCHEMA,
            "name": self.name,
            "memory": self.memory.to_mapping(),
            "llm": self.llm.to_mapping() | more,
            "trace": dict(trace),
            "rules": self.rules.to_mapping(),
            **({"formats": formats} if formats else {}),
            **({"latency": LATENCY} if self.memory.late_tiers else {}),
            **({} if self.objective == TIME_ALONE else {"objective": self.objective.to_mapping()}),
        }

    def expanded(self, trace_path: str | None = None) -> dict[str, Any]:
        """Return the document with everything spelled out, as the checker reads it.

        The trace is named by the hashes of its packed rows and, if given, by a path. Where it says that reads
        are dense, the checker needs no rows.
        """
        # labels determine only blocks of more than one token, and windows
        labels = self.granularity > 1 or self.rules.windows is Windows.ENDS
        trace: dict[str, Any] = {
            "layers": self.layers,
            "prefill_tokens": self.workload.prefill_tokens,
            "decode_steps": self.decode_steps,
            "sha256": self.token_trace.row_hashes(),
            **({"dense": True} if self.token_trace.dense else {}),
            **self.workload.timeline.to_mapping(sequence=labels),
        }
        if hashes := self.token_trace.expert_hashes():
            trace["experts_sha256"] = hashes
        if trace_path is not None:
            trace["path"] = trace_path
        return canonical.plain(self.document(trace))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the expanded instance; see `kvbound.canonical.sha256`."""
        return canonical.sha256(self.expanded())

    def with_objective(self, **changes: Any) -> Instance:
        """Return the same instance with other weights, or estimates of energies, in its objective."""
        return dataclasses.replace(self, objective=dataclasses.replace(self.objective, **changes))

    def with_rules(self, **changes: Any) -> Instance:
        """Return the same instance under other rules."""
        return dataclasses.replace(self, rules=dataclasses.replace(self.rules, **changes))
