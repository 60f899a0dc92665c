"""Traces: the past tokens whose KV entries each step of a decode run reads in each layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.build import (
    MAX_LAYERS,
    Order,
    RowBuilder,
    checked_prefill,
    layer_mass,
    read_lists,
)
from kvbound.trace.check import no_read_of, wrong_read
from kvbound.trace.dense import DenseRows, read_at, wrong_dense_read
from kvbound.trace.experts import from_lists, named_below, trimmed
from kvbound.trace.shapes import check_arrays, check_sizes, plain_timeline
from kvbound.trace.timeline import Timeline


@dataclass(frozen=True, eq=False)
class Trace:
    """The reads of a decode run.

    Unless its timeline says otherwise, step j produces the token with id ``prefill_tokens + j``.

    Parameters
    ----------
    prefill_tokens
        Prompt tokens P: the ids 0..P-1 exist before the first step.
    rows
        Per layer packed bits, uint8 (steps, row_bytes(tokens)); bit i of row j is set if step j reads
        token i, which exists or is born in the step. Possibly memory maps, or `DenseRows`.
    order
        Per layer None where every list is ascending, else the lists as recorded.
    mass
        Per layer None or the recorded attention mass, float16 (reads,), aligned with the lists.
    source, licence
        Where the trace comes from.
    experts
        Per layer packed bits as in `rows`, (steps, bytes): bit i of row j is set if step j reads expert i of
        the layer; empty if the trace names no experts.

    Raises
    ------
    InputError
        Shapes, types or sizes do not match. The readers of traces check the bits themselves.
    """

    prefill_tokens: int
    rows: Sequence[NDArray[np.uint8]]
    order: tuple[Order | None, ...] = ()
    mass: tuple[NDArray[np.float16] | None, ...] = ()
    source: str = ""
    licence: str = ""
    known_hashes: tuple[str, ...] | None = field(default=None, repr=False)
    """SHA-256 (hex) of each layer's rows, if already known."""
    timeline: Timeline = None  # type: ignore[assignment]
    """Births and ends; by default one token is born in every step, and none ends."""
    experts: tuple[NDArray[np.uint8], ...] = ()

    def __post_init__(self) -> None:
        if self.dense and self.experts:  # the rows are made, and count as any others
            object.__setattr__(self, "rows", tuple(self.rows))
        layers = len(self.rows)
        steps = self.timeline.steps if self.dense else len(self.rows[0]) if layers else 0
        if self.timeline is None:
            object.__setattr__(self, "timeline", plain_timeline(self.prefill_tokens, layers, steps))
        for name in ("order", "mass"):
            object.__setattr__(self, name, tuple(getattr(self, name)) or (None,) * layers)
        check_sizes(self.prefill_tokens, layers, steps, self.timeline)
        if self.dense:
            return
        check_arrays(self.timeline, self.rows, self.order, self.mass, self.experts)
        for name, arrays in (("rows", self.rows), ("experts", map(trimmed, self.experts))):
            views = tuple(rows.view() for rows in arrays)
            for each in views:
                each.setflags(write=False)
            object.__setattr__(self, name, views)

    def __repr__(self) -> str:
        """Return the sizes in one line."""
        born = self.tokens - self.prefill_tokens
        return f"<Trace: {self.layers} layers, {self.prefill_tokens:,} + {born:,} tokens>"

    @property
    def layers(self) -> int:
        """Layers L."""
        return len(self.rows)

    @property
    def decode_steps(self) -> int:
        """Decode steps N."""
        return self.timeline.steps

    @property
    def dense(self) -> bool:
        """Whether every step reads all past tokens that exist, as `from_timeline` makes it."""
        return isinstance(self.rows, DenseRows)

    @property
    def tokens(self) -> int:
        """Prompt and born tokens."""
        return self.timeline.tokens

    @property
    def arrays(self) -> Sequence[NDArray[np.uint8]]:
        """The rows of each layer and, where experts are named, then those of each: what the checker reads."""
        return self.rows if self.dense else (*self.rows, *self.experts)

    @cached_property
    def expert_counts(self) -> tuple[int, ...]:
        """Least number of experts that each layer has, shape (layers,); empty if none are named."""
        return tuple(map(named_below, self.experts))

    def words(self, layer: int) -> NDArray[np.uint64]:
        """One layer's rows as 64-bit words, (steps, words)."""
        return bits.words(self.rows[layer])

    def reads(self, step: int, layer: int) -> NDArray[np.int64]:
        """Ascending ids that one slot reads, including recorded reads of tokens born in its step."""
        return read_at(self.timeline, step) if self.dense else bits.ids(self.rows[layer][step])

    def listed(self, step: int, layer: int) -> NDArray[np.int64]:
        """Ids that one slot reads, in recorded order."""
        order = self.order[layer]
        if order is None:
            return self.reads(step, layer)
        return order.ids[order.offsets[step] : order.offsets[step + 1]].astype(np.int64)

    def listed_mass(self, step: int, layer: int) -> NDArray[np.float16] | None:
        """Recorded attention mass of one slot's reads, aligned with `listed`, or None."""
        mass = self.mass[layer]
        if mass is None:
            return None
        offsets = self.offsets(layer)
        return mass[offsets[step] : offsets[step + 1]]

    def offsets(self, layer: int) -> NDArray[np.int64]:
        """Where each step's list begins among the layer's reads, (steps + 1,)."""
        order = self.order[layer]
        if order is not None:
            return order.offsets
        return np.concatenate([[0], np.cumsum(self._counts[:, layer])]).astype(np.int64)

    def counts(self) -> NDArray[np.int64]:
        """Reads of each slot, including those of tokens born in its step, (steps, layers)."""
        return self._counts.copy()

    def own_reads(self) -> NDArray[np.int64]:
        """Reads of each slot of tokens born in its own step, (steps, layers)."""
        return self._own.copy()

    def past_counts(self) -> NDArray[np.int64]:
        """Reads of each slot among past tokens, (steps, layers)."""
        return self._counts - self._own

    def past_reads(self, layer: int) -> NDArray[np.bool_]:
        """Which past tokens each step reads in a layer, (steps, tokens)."""
        past = self.timeline.past
        return bits.unpack(bits.without(self.rows[layer], past[:-1], past[1:]), self.tokens).astype(np.bool_)

    def wrong_read(self, layer: int, timeline: Timeline) -> tuple[int, str] | None:
        """Return the first step whose reads in a layer break its timeline, and what was expected, or None."""
        if not self.dense:
            return wrong_read(timeline, self.rows[layer])
        wrong = wrong_dense_read(self.timeline, timeline)
        return None if wrong is None else (wrong[0], no_read_of(timeline, wrong[1]))

    def row_hashes(self) -> list[str]:
        """SHA-256 (hex) of each layer's packed rows."""
        return list(self._hashes)

    def expert_hashes(self) -> list[str]:
        """SHA-256 (hex) of each layer's packed experts; empty if none are named."""
        return [_row_hash(rows) for rows in self.experts]

    def head(self, steps: int) -> Trace:
        """Return the trace of the first `steps` steps, with the whole prompt, in memory."""
        timeline = self.timeline.head(steps)
        if self.dense:
            return self.from_timeline(timeline, self.layers, source=self.source, licence=self.licence)
        width = bits.row_bytes(timeline.tokens)
        order: list[Order | None] = []
        mass: list[NDArray[np.float16] | None] = []
        for layer, (listed, weighed) in enumerate(zip(self.order, self.mass, strict=True)):
            offsets = self.offsets(layer)[: steps + 1]
            order.append(None if listed is None else Order(listed.ids[: offsets[-1]], offsets))
            mass.append(None if weighed is None else weighed[: offsets[-1]])
        rows = tuple(np.ascontiguousarray(rows[:steps, :width]) for rows in self.rows)
        return Trace(
            self.prefill_tokens, rows, tuple(order), tuple(mass), self.source, self.licence,
            timeline=timeline, experts=tuple(np.array(named[:steps]) for named in self.experts),
        )  # fmt: skip

    @classmethod
    def from_timeline(cls, timeline: Timeline, layers: int, *, source: str = "", licence: str = "") -> Trace:
        """Make a dense trace: every step reads all tokens that exist and were born before it.

        It takes as much memory as births and ends do.
        """
        rows = DenseRows(timeline, layers)
        return cls(timeline.prefill_tokens, rows, source=source, licence=licence, timeline=timeline)

    @classmethod
    def from_lists(
        cls,
        prefill_tokens: int,
        reads: Sequence[Sequence[Any]],
        *,
        births: object = None,
        ends: object = None,
        sequence: object = None,
        outputs: object = None,
        experts: object = None,
        mass: Sequence[Sequence[Any]] | None = None,
        source: str = "",
        licence: str = "",
        file: object = "trace",
    ) -> Trace:
        """Make a trace from lists of ids, ``reads[step][layer]``.

        Parameters
        ----------
        reads
            Lists (or arrays) of token ids; their order is kept.
        births, ends, sequence, outputs
            See `kvbound.trace.timeline.Timeline.of`.
        experts
            Lists of the experts that slots name, ``experts[step][layer]``; None if they name none.
        mass
            Attention mass of every read, aligned with `reads`.
        file
            The lists' origin, for messages.

        Raises
        ------
        InputError
            An id is negative, repeated, from the future, of a token that has ended or not an integer, or a
            list is missing.
        """
        lists = read_lists(prefill_tokens, reads, file)
        timeline = Timeline.of(
            int(prefill_tokens), len(lists),
            births=births, ends=ends, sequence=sequence, outputs=outputs, file=file,
        )  # fmt: skip
        builder = RowBuilder(timeline, np.array([[len(ids) for ids in row] for row in lists]), file)
        for step, row in enumerate(lists):
            for layer, ids in enumerate(row):
                builder.add(step, layer, ids, f"reads[{step}][{layer}]")
        masses: list[NDArray[np.float16] | None] = [None] * builder.layers
        if mass is not None:
            masses = [layer_mass(lists, mass, layer, file) for layer in range(builder.layers)]
        return cls(
            int(prefill_tokens), builder.rows, tuple(builder.order), tuple(masses), source, licence,
            timeline=timeline, experts=_named(experts, len(lists), builder.layers, file),
        )  # fmt: skip

    @classmethod
    def from_mask(
        cls,
        mask: object,
        prefill_tokens: int,
        *,
        births: object = None,
        ends: object = None,
        sequence: object = None,
        outputs: object = None,
        experts: object = None,
        source: str = "",
        licence: str = "",
        file: object = "trace",
    ) -> Trace:
        """Make a trace from a boolean mask of the reads.

        Parameters
        ----------
        mask
            Booleans (steps, layers, tokens): whether a slot reads a token. The tokens are those of the prompt
            and those born, by default one in every step; a step may read all up to those born in it.
        births, ends, sequence, outputs
            See `kvbound.trace.timeline.Timeline.of`.
        experts
            Lists of the experts that slots name, ``experts[step][layer]``; None if they name none.
        file
            The mask's origin, for messages.

        Raises
        ------
        InputError
            The mask has another type or shape, or reads tokens of the future or tokens that have ended.
        """
        expected = "booleans of shape (steps, layers, tokens)"
        try:
            read = np.asarray(mask)
        except ValueError:  # lists of different lengths
            raise InputError(file, "mask", f"{expected}, not lists of different lengths") from None
        prefill = checked_prefill(prefill_tokens, file)
        if read.dtype != np.bool_ or read.ndim != 3:
            raise InputError(file, "mask", f"{expected}, not {read.dtype} of shape {read.shape}")
        steps, layers, tokens = read.shape
        timeline = Timeline.of(
            prefill, steps, births=births, ends=ends, sequence=sequence, outputs=outputs, file=file
        )
        if not (steps and layers and tokens == timeline.tokens):
            of = "steps" if births is None else "births"
            expected = f"prefill_tokens + {of} = {timeline.tokens:,} tokens, not {tokens:,}"
            raise InputError(file, "mask", f"at least one step and layer, and {expected}")
        if layers > MAX_LAYERS:
            raise InputError(file, "mask", f"at most {MAX_LAYERS:,} layers, not {layers:,}")
        rows = []
        for layer in range(layers):
            packed = np.zeros((steps, bits.row_bytes(tokens)), np.uint8)
            packed[:, : -(-tokens // 8)] = np.packbits(read[:, layer], axis=1, bitorder="little")
            if wrong := wrong_read(timeline, packed):
                raise InputError(file, f"mask[{wrong[0]}][{layer}]", wrong[1])
            rows.append(packed)
        return cls(
            prefill, tuple(rows), source=source, licence=licence, timeline=timeline,
            experts=_named(experts, steps, layers, file),
        )  # fmt: skip

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        if self.dense:
            return np.repeat(self.timeline.live[:-1, None], self.layers, axis=1)
        return np.stack([bits.count(rows) for rows in self.rows], axis=1)

    @cached_property
    def _own(self) -> NDArray[np.int64]:
        if self.dense:
            return np.zeros((self.decode_steps, self.layers), np.int64)
        past = self.timeline.past
        return np.stack([bits.count_within(rows, past[:-1], past[1:]) for rows in self.rows], axis=1)

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        if self.known_hashes is not None:
            return self.known_hashes
        if isinstance(self.rows, DenseRows):
            return (self.rows.sha256,) * self.layers
        with ThreadPoolExecutor(2) as pool:
            return tuple(pool.map(_row_hash, self.rows))


def _named(lists: object, steps: int, layers: int, file: object) -> tuple[NDArray[np.uint8], ...]:
    return () if lists is None else from_lists(lists, steps, layers, file)


def _row_hash(rows: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for block in bits.blocks(len(rows)):
        digest.update(np.ascontiguousarray(rows[block]).data)
    return digest.hexdigest()
