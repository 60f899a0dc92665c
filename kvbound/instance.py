"""An instance: a memory, a language model, the reads of a decode run, and the rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kvbound import workloads
from kvbound.blocks import Blocks
from kvbound.errors import InfeasibleError, InputError
from kvbound.fields import MAX_BYTES, Fields, show
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.trace import Trace
from kvbound.trace.timeline import Timeline
from kvbound.workloads import Synthetic

SCHEMA = "kvbound.instance/1"


class Copies(StrEnum):
    """Whether the last tier keeps a copy of every item, or there is only one copy."""

    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"


class Migration(StrEnum):
    """Which items may move up: none, those that the slot reads, any past one."""

    NONE = "none"
    ON_READ = "on-read"
    PREFETCH = "prefetch"


class Timing(StrEnum):
    """Resources work side by side, or one after the other."""

    PARALLEL = "parallel"
    SERIAL = "serial"


class Initial(StrEnum):
    """The prompt's placement is free, or filled in order, fastest tier first."""

    FREE = "free"
    PREFILL_FIRST = "prefill-first"


class Accounting(StrEnum):
    """This project's cost model, or that of the study arXiv 2508.13231."""

    PHYSICAL = "physical"
    FANG2025 = "fang2025"


_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True)
class Rules:
    """What is allowed, and how it is charged; docs/model.md defines the terms."""

    copies: Copies = Copies.INCLUSIVE
    migration: Migration = Migration.ON_READ
    timing: Timing = Timing.PARALLEL
    initial: Initial = Initial.FREE
    granularity: int = 1
    accounting: Accounting = Accounting.PHYSICAL

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            default, value = field.default, getattr(self, field.name)
            if isinstance(default, StrEnum):
                kind = type(default)
                if value not in list(kind):
                    words = ", ".join(repr(str(word)) for word in kind)
                    raise InputError("rules", field.name, f"one of {words}, not {show(value)}")
                object.__setattr__(self, field.name, kind(value))
        size: object = self.granularity
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not whole or not 1 <= self.granularity <= 2**20:
            raise InputError("rules", "granularity", f"1 to {2**20} tokens, not {show(size)}")
        object.__setattr__(self, "granularity", int(self.granularity))

    @classmethod
    def from_mapping(cls, mapping: object, file: object = "rules", field: str = "") -> Rules:
        """Read the table of an instance file; every field has a default.

        Raises
        ------
        InputError
            A word or number is not one of the allowed ones.
        """
        fields = Fields(mapping, file, field)
        values: dict[str, Any] = {}
        for known in dataclasses.fields(cls):
            default = known.default
            if isinstance(default, StrEnum):
                values[known.name] = fields.choice(known.name, type(default), default)
            else:
                values[known.name] = fields.integer(known.name, 1, 2**20, default=1)
        fields.done()
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return the table of an instance file, with all fields."""
        return {
            field.name: value if isinstance(value := getattr(self, field.name), int) else str(value)
            for field in dataclasses.fields(self)
        }


@dataclass(frozen=True, eq=False)
class Instance:
    """One problem: a memory, a language model, the reads of a decode run, and the rules.

    Attributes
    ----------
    workload
        The read trace, or the description of a synthetic one.
    formats
        Bytes of one token's KV in one layer, by tier name, for the tiers with another number format than the
        llm's.
    """

    name: str
    memory: Memory
    llm: Llm
    rules: Rules
    workload: Trace | Synthetic
    formats: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        usual, names = self.llm.kv_bytes_per_token_layer, [tier.name for tier in self.memory.tiers]
        if min(self.formats.values(), default=1) < 1 or not set(self.formats) <= set(names):
            expected = f"bytes of an item, at least 1, in tiers among {', '.join(names)}"
            raise InputError(self.name, "formats", expected)
        others = {name: int(self.formats[name]) for name in names if self.formats.get(name, usual) != usual}
        object.__setattr__(self, "formats", others)
        if self.workload.layers != self.llm.layers:
            expected = f"{self.llm.layers} layers like the llm {self.llm.name!r}, not {self.workload.layers}"
            raise InputError(self.name, "trace.layers", expected)
        size = self.layers * self.tokens * max(self.item_sizes)
        if size > MAX_BYTES:  # so that no count of bytes overflows
            raise InputError(self.name, "llm", f"at most {MAX_BYTES:,} bytes of KV in all, not {size:,}")
        if not self.physical and len(set(self.item_sizes)) > 1:
            expected = f"no formats of tiers, as accounting {self.rules.accounting} has one size of items"
            raise InputError(self.name, "formats", expected)
        if not self.physical and not self.timeline.plain:
            expected = f"one birth in every step and no ends under accounting {self.rules.accounting}"
            raise InputError(self.name, "trace", expected)

    def __repr__(self) -> str:
        """Return name and sizes, in a line."""
        tokens = f"{self.prefill_tokens:,} + {self.tokens - self.prefill_tokens:,} tokens"
        return f"<Instance {self.name}: {self.layers} layers, {tokens}, {self.memory.name}, {self.llm.name}>"

    @property
    def layers(self) -> int:
        """Layers, L."""
        return self.llm.layers

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens, P."""
        return self.workload.prefill_tokens

    @property
    def decode_steps(self) -> int:
        """Decode steps, N."""
        return self.workload.decode_steps

    @cached_property
    def timeline(self) -> Timeline:
        """Births and ends of the tokens."""
        return self.workload.timeline

    @property
    def tokens(self) -> int:
        """Prompt and born tokens; P + N where one token is born in every step."""
        return self.workload.tokens

    @property
    def slots(self) -> int:
        """Slots, N * L."""
        return self.decode_steps * self.layers

    @cached_property
    def item_sizes(self) -> tuple[int, ...]:
        """Bytes of one token's KV in one layer, by tier, shape (K,)."""
        usual = int(self.llm.kv_bytes_per_token_layer)
        return tuple(self.formats.get(tier.name, usual) for tier in self.memory.tiers)

    @property
    def item_bytes(self) -> int:
        """Bytes of one token's KV in one layer in tier 0, s."""
        return self.item_sizes[0]

    @property
    def granularity(self) -> int:
        """Tokens per block, g."""
        return self.rules.granularity

    @property
    def block_bytes(self) -> int:
        """Bytes that a block occupies in tier 0, g * s."""
        return self.granularity * self.item_bytes

    @cached_property
    def grouping(self) -> Blocks:
        """Division of every layer's tokens into blocks."""
        return Blocks.make(self.timeline, self.granularity)

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
        return self.workload if isinstance(self.workload, Trace) else workloads.make(self.workload)

    def read_counts(self) -> NDArray[np.int64]:
        """Reads of past tokens in each slot, shape (steps, layers); a synthetic trace is not made for it."""
        if isinstance(self.workload, Trace):
            return self.workload.past_counts() if self.physical else self.workload.counts()
        return workloads.shape(self.workload)[3]

    @cached_property
    def capacity_blocks(self) -> tuple[int | None, ...]:
        """Number of blocks that fit into each tier beside the resident weights; None is unlimited.

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
            free = int(tier.capacity) - (int(self.llm.weight_bytes) if k == 0 else 0)
            if free < 0:
                raise InfeasibleError(
                    f"{self.name}: the weights ({self.llm.weight_bytes:,} B) do not fit into "
                    f"{tier.name} ({tier.capacity:,} B)"
                )
            rooms.append(free // (self.granularity * self.item_sizes[k]))
        total, most = self.layers * int(self.grouping.held_counts.max()), self._together(rooms)
        if most is not None and most < total:
            where = f"the last tier {self.memory.tiers[-1].name}" if self.inclusive else "all tiers together"
            size = self.granularity * self.item_sizes[-1]
            raise InfeasibleError(f"{self.name}: {total:,} blocks of {size:,} B do not fit into {where}")
        return tuple(rooms)

    @property
    def most_blocks(self) -> int | None:
        """Number of blocks that fit into all tiers together; as for `capacity_blocks`."""
        return self._together(self.capacity_blocks)

    def _together(self, rooms: Sequence[int | None]) -> int | None:
        """Add up rooms; with inclusive copies the last tier holds every block."""
        holding = [room for room in (rooms[-1:] if self.inclusive else rooms) if room is not None]
        return None if rooms[-1] is None else sum(holding)

    def document(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document of an instance file, everything spelled out, given its entry for the trace."""
        formats = {tier: {"bytes": size} for tier, size in self.formats.items()}
        return {
            "schema": SCHEMA,
            "name": self.name,
            "memory": self.memory.to_mapping(),
            "llm": self.llm.to_mapping(),
            "trace": dict(trace),
            "rules": self.rules.to_mapping(),
            **({"formats": formats} if formats else {}),
        }

    def expanded(self, trace_path: str | None = None) -> dict[str, Any]:
        """Return the document with everything spelled out, as the checker reads it.

        The trace is named by the hashes of its packed rows and, if given, by a path.
        """
        trace: dict[str, Any] = {
            "layers": self.layers,
            "prefill_tokens": self.prefill_tokens,
            "decode_steps": self.decode_steps,
            "sha256": self.trace.row_hashes(),
            # labels determine only blocks of more than one token
            **self.timeline.to_mapping(sequence=self.granularity > 1),
        }
        if trace_path is not None:
            trace["path"] = trace_path
        plain = _plain(self.document(trace))
        assert isinstance(plain, dict)
        return plain

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON of the expanded instance without its name."""
        expanded = self.expanded()
        del expanded["name"]
        text = json.dumps(expanded, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_rules(self, **changes: Any) -> Instance:
        """Return the same instance under other rules."""
        return dataclasses.replace(self, rules=dataclasses.replace(self.rules, **changes))


def _plain(value: object) -> object:
    """Turn whole numbers into integers, so that 23e9 and 23000000000 give the same hash."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
