"""The expanded instance as plain numbers, validated before use, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.arrays import text
from kvbound.checker.dense import MOST_SLOTS, MOST_TOKENS, DenseRows, reads_ended
from kvbound.checker.energy import FIELDS as UNHASHED
from kvbound.checker.energy import PRICED, Energies, read_energies
from kvbound.checker.layers import Sizes, in_units, is_size, read_sizes, read_windows
from kvbound.checker.lifetimes import FIELDS, Lifetimes, count_tokens
from kvbound.checker.objective import TIME, Objective, read_objective, weighs_energy
from kvbound.checker.report import Floats, Ints, Refused, note, require
from kvbound.checker.weights import (
    MOST_EXPERTS,
    Placed,
    chunk_bytes,
    count_ids,
    read_chunks,
    what_stays,
    with_chunks,
    with_reads,
)

Rows: TypeAlias = Sequence[NDArray[np.uint8]] | None
"""Packed reads of each layer and, where the trace names experts, then the packed experts of each layer; None,
or anything, where the expanded instance says that reads are dense."""

_EXPERT_BYTES = MOST_EXPERTS // 8
"""Largest number of bytes of a row of experts."""

CHOICES = {
    "copies": ("inclusive", "exclusive"),
    "migration": ("none", "on-read", "prefetch"),
    "timing": ("parallel", "serial"),
    "initial": ("free", "prefill-first"),
    "accounting": ("physical", "fang2025"),
}


@dataclass(frozen=True)
class Case:
    """The expanded instance as plain numbers: bytes, seconds, bytes per second.

    Capacities and occupancies are compared in whole units, in integers of any size: floats would lose bytes.
    A tier's unit is a block of tokens, each of the largest number of bytes that divides the sizes of all
    layers.

    Where weights may be placed, their chunks are among the prompt's tokens, and before them; see
    `kvbound.checker.weights`.
    """

    layers: int
    prefill: int
    steps: int
    item_sizes: tuple[int, ...]  # bytes of a unit for each token, by tier; a layer's, where all are equal
    units: Sizes  # of a block in each layer, (layers, tiers); 0 where the layer keeps no KV
    weight_bytes: int  # resident in tier 0, rounded up
    weight_reads: Floats  # of the resident weights, (layers,)
    names: tuple[str, ...]  # of the tiers, fast to slow
    resources: tuple[str, ...]
    bandwidth: Floats  # (resources,)
    reads: Floats  # (tiers, resources): 1 where a read at the tier loads the resource
    writes: Floats
    latency: Floats  # (tiers,)
    capacity: tuple[int | None, ...]  # of the tiers, rounded down; None where unlimited
    granularity: int
    life: Lifetimes  # of tokens and blocks, without windows: what is equal in all layers is read from here
    lives: tuple[Lifetimes, ...]  # the same with each layer's window and chunks, (layers,)
    rules: Mapping[str, str]
    sha256: str
    energies: Energies
    trace: Sequence[NDArray[np.uint8]] = field(repr=False)  # packed reads of the trace's tokens
    first: int = 0  # id of the trace's first token
    routing: Sequence[NDArray[np.uint8]] = field(
        default=(), repr=False
    )  # packed experts that slots name, (layers,), or empty
    objective: Objective = TIME
    experts: tuple[int, ...] = ()  # number of each layer's chunks that are experts, (layers,)

    @property
    def tokens(self) -> int:
        """Ids in a layer: prompt and born tokens together."""
        return len(self.life.born)

    @property
    def room(self) -> tuple[int | None, ...]:
        """Units that fit each tier beside resident weights: negative if these do not, None if unlimited."""
        units = []
        for tier, (capacity, size) in enumerate(zip(self.capacity, self.item_sizes, strict=True)):
            weights = 0 if tier else self.weight_bytes
            units.append(None if capacity is None else (capacity - weights) // (self.granularity * size))
        return tuple(units)

    @property
    def alike(self) -> bool:
        """Whether all layers have blocks of one size, without chunks of weights, and no windows."""
        equal = not self.first and all(max(units) == min(units) == 1 for units in set(self.units))
        return equal and not self.ends_differ

    @property
    def by_step(self) -> bool:
        """Whether the transfers of all layers end with the step: layers then have no times of their own."""
        return self.rules["overlap"] == "step" and self.layers > 1

    @property
    def timed_layers(self) -> int:
        """Layers with times of their own, or 1."""
        return 1 if self.by_step else self.layers

    @property
    def ends_differ(self) -> bool:
        """Whether ends differ by layer."""
        return any(life is not self.life for life in self.lives)

    def sizes(self, layer: int) -> tuple[int, ...]:
        """Return the bytes of one token's KV in a layer, by tier."""
        return tuple(n * size for n, size in zip(self.units[layer], self.item_sizes, strict=True))

    @property
    def block_sizes(self) -> Sizes:
        """Bytes of a block of tokens in each layer and tier, (layers, tiers)."""
        return tuple(tuple(self.granularity * n for n in self.sizes(k)) for k in range(self.layers))

    @property
    def dense(self) -> bool:
        """Whether every slot reads all items that exist and were born in an earlier step."""
        return isinstance(self.trace, DenseRows)

    def past_reads(self, layer: int) -> Ints:
        """Count the reads of items that are not born in the same step, ``(steps,)``."""
        life = self.lives[layer]
        return life.live if self.dense else life.past_reads(self.rows(layer))

    def rows(self, layer: int) -> NDArray[np.uint8]:
        """Return a layer's packed reads of all ids, (steps, 8 * words): a copy if there are chunks."""
        rows, chunks = self.trace[layer], self.lives[layer].chunks
        if not chunks.size:
            return rows
        return with_reads(rows, chunks, self.experts[layer], self.routing[layer] if self.routing else None)

    def named(self, token: int) -> str:
        """Return what an id stands for, for messages: a token of the trace, or a chunk of weights."""
        return f"token {token - self.first}" if token >= self.first else f"chunk {token}"

    @cached_property
    def unit_counts(self) -> NDArray[Any]:
        """`units` as an array: of Python integers where sums over all blocks might exceed int64."""
        padded = self.tokens + 64  # bits of a packed row
        counts = zip(self.units, self.lives, strict=True)
        most = sum(max(units) * (padded + int(life.chunks.sum())) for units, life in counts)
        return np.array(self.units, np.int64 if most < 1 << 62 else object)


def read_case(expanded: Mapping[str, Any], rows: Rows) -> Case:
    """Read and validate the expanded instance, check the trace's rows against it, and hash it.

    Raises
    ------
    Refused
        The instance is malformed, or the rows are those of another trace.
    """
    try:
        case = _case(expanded, rows)
        placed = read_chunks(expanded, case.block_sizes, case.weight_reads, case.weight_bytes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Refused(f"the expanded instance is malformed: {type(error).__name__}: {error}") from None
    _check_reads(case)
    _check_named(case, expanded["llm"].get("experts", ()))
    return _after_chunks(case, placed) if any(placed.chunks) else case


def _after_chunks(case: Case, placed: Placed) -> Case:
    """Return the instance with chunks of weights before the tokens, in place of resident weights."""
    chunks = placed.chunks
    life, *lives = with_chunks((case.life, *case.lives), (chunks[0], *chunks))
    held, first = sum(chunk_bytes(chunks, case.block_sizes)), count_ids(chunks)
    return replace(
        case, prefill=first + case.prefill, weight_bytes=case.weight_bytes - held,
        weight_reads=what_stays(case.weight_reads, placed.counted), life=life, lives=tuple(lives),
        first=first, experts=placed.experts,
    )  # fmt: skip


def _case(expanded: Mapping[str, Any], rows: Rows) -> Case:
    memory, llm, trace, rules = (expanded[key] for key in ("memory", "llm", "trace", "rules"))
    granularity, made = rules["granularity"], None
    if trace.get("dense", False) is not False:
        made = rows = _dense_rows(trace, granularity)
        hashes = [made.sha256] * made.layers
    else:
        rows = [] if rows is None else rows
        hashes = [hashlib.sha256(np.ascontiguousarray(layer).data).hexdigest() for layer in rows]
    tiers, layers, prefill, steps = memory["tiers"], *_check_trace(trace, rows, hashes)
    kept, routing = (rows[:layers], rows[layers:]) if made is None else (made, ())
    sizes, windows = read_sizes(expanded, layers), read_windows(expanded, layers)
    names, goal = tuple(memory["resources"]), read_objective(expanded)

    def loads(field: str) -> Floats:
        matrix = np.zeros((len(tiers), len(names)))
        for number, tier in enumerate(tiers):
            matrix[number, [names.index(name) for name in tier[field]]] = 1
        return matrix

    life = Lifetimes.read(trace, granularity) if made is None else made.life
    lives = {window: life.within(window) for window in set(windows)}
    case = Case(
        layers, prefill, steps, *in_units(sizes),
        math.ceil(_size(llm["weight_bytes"])), np.array(llm["weight_read_bytes_per_layer"], float),
        tuple(tier["name"] for tier in tiers), names,
        np.array([memory["resources"][name] for name in names], float),
        loads("reads"), loads("writes"), np.array([tier["latency"] for tier in tiers], float),
        tuple(None if (size := tier["capacity"]) is None else math.floor(_size(size)) for tier in tiers),
        granularity, life, tuple(lives[window] for window in windows),
        {key: rules[key] for key in CHOICES} | {"overlap": rules.get("overlap", "slot")},
        instance_sha256(expanded, hashes),
        read_energies(expanded, goal.level, goal.point), kept, routing=routing, objective=goal,
    )  # fmt: skip
    study = case.rules["accounting"] == "fang2025"
    require({
        'schema "kvbound.instance/1"': expanded["schema"] == "kvbound.instance/1",
        "one weight read per layer": case.weight_reads.shape == (layers,) and llm["layers"] == layers,
        "finite weights >= 0": bool(np.all((case.weight_reads >= 0) & (case.weight_reads < math.inf))),
        "finite bandwidths > 0": bool(np.all((case.bandwidth > 0) & (case.bandwidth < math.inf))),
        "finite latencies >= 0": bool(np.all((case.latency >= 0) & (case.latency < math.inf))),
        'latency "path" exactly where a tier has one': (expanded.get("latency") == "path")
        == bool(case.latency.any()),
        "at least two tiers": len(tiers) >= 2,
        "known rules": all(case.rules[key] in values for key, values in CHOICES.items()),
        'overlap "step", or no such field': case.rules["overlap"] in ("slot", "step"),
        "overlap by slot under accounting fang2025": not study or case.rules["overlap"] == "slot",
        "formats with one ratio in all layers where transfers overlap": not case.by_step or all(
            len(set(units)) == 1 for units in case.units
        ),
        "one birth per step and no ends under accounting fang2025": not (study and set(FIELDS) & set(trace)),
        "one size of items under accounting fang2025": not study or len(set().union(*set(sizes))) == 1,
        "no windows under accounting fang2025": not (study and case.ends_differ),
    })  # fmt: skip
    return case


def _dense_rows(trace: Mapping[str, Any], granularity: int) -> DenseRows:
    """Return the rows of a trace that claims to be dense, after checking that its sizes are feasible."""
    layers, prefill, steps = trace["layers"], trace["prefill_tokens"], trace["decode_steps"]
    require({
        "dense of a trace to be true, or no such field": trace["dense"] is True,
        "whole positive layers and steps": is_size(layers, 1) and is_size(steps, 1),
        "prefill_tokens >= 0": is_size(prefill, 0),
    })  # fmt: skip
    require({f"at most {MOST_SLOTS} slots of dense reads": layers * steps <= MOST_SLOTS})
    items = layers * count_tokens(trace)
    require({f"at most {MOST_TOKENS} items of dense reads": items <= MOST_TOKENS})
    return DenseRows(Lifetimes.read(trace, granularity), layers)


def _check_trace(
    trace: Mapping[str, Any], rows: Sequence[NDArray[np.uint8]], hashes: list[str]
) -> tuple[int, int, int]:
    """Check a trace's sizes and that the rows are its own; return its layers, prompt tokens and steps.

    No array of the claimed sizes is allocated before they are known to be those of the rows.
    """
    layers, prefill, steps = trace["layers"], trace["prefill_tokens"], trace["decode_steps"]
    require({
        "whole positive layers and steps": is_size(layers, 1) and is_size(steps, 1),
        "prefill_tokens >= 0": is_size(prefill, 0),
        "the trace's own rows (SHA-256 of each layer)": list(trace["sha256"]) == hashes[:layers],
        "the trace's own experts (SHA-256 of each layer)": (
            list(trace.get("experts_sha256", [])) == hashes[layers:]
        ),
        "the rows of every layer": len(hashes) == layers * (1 + ("experts_sha256" in trace)),
    })  # fmt: skip
    if isinstance(rows, DenseRows):
        return layers, prefill, steps
    for layer, packed in enumerate(rows[layers:]):
        steps_of, width = packed.shape if packed.ndim == 2 else (0, 0)
        if packed.dtype != np.uint8 or steps_of != steps or not width or width % 8 or width > _EXPERT_BYTES:
            found = f"{packed.dtype} {packed.shape}"
            raise Refused(
                f"layer {layer}: the experts named are {found}, expected uint8 ({steps}, 8 * words)"
            )
    shape = (steps, 8 * -(-count_tokens(trace) // 64))
    for layer, packed in enumerate(rows[:layers]):
        if packed.dtype != np.uint8 or packed.shape != shape:
            found = f"{packed.dtype} {packed.shape}"
            raise Refused(f"layer {layer}: the trace's rows are {found}, expected uint8 {shape}")
    return layers, prefill, steps


def _check_reads(case: Case) -> None:
    """Refuse a trace that reads tokens beyond a layer's window, or past tokens of a layer without KV."""
    problems: list[str] = []
    for layer, life in enumerate(case.lives):

        def describe(what: str, k: int, layer: int = layer) -> str:
            return f"{slot_name(case, k * case.layers + layer)}: the trace reads a token{what}"

        if life is not case.life:
            ended = reads_ended(life, case.life) if case.dense else life.reads_ended(case.trace[layer])
            note(problems, ended, partial(describe, " that has ended"))
        if not any(case.units[layer]):
            note(problems, case.past_reads(layer) > 0, partial(describe, ", but the layer keeps no KV"))
    if problems:
        raise Refused(*problems)


def _check_named(case: Case, experts: Sequence[int]) -> None:
    """Refuse a trace that names experts which a layer does not have."""
    for layer, packed in enumerate(case.routing):
        number = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(packed, axis=0), bitorder="little"))
        if number.size and number[-1] >= experts[layer]:
            raise Refused(
                f"layer {layer} has {experts[layer]} experts, but the trace names expert {number[-1]}"
            )


def slot_name(case: Case, slot: int) -> str:
    """Return a slot's number, step and layer, for messages."""
    return f"slot {slot} (step {slot // case.layers}, layer {slot % case.layers})"


def _size(value: Any) -> int | float:
    """Return a number of bytes, possibly fractional, after checking that it is finite and >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"expected finite bytes >= 0, not {value!r:.60}")
    return value


def instance_sha256(expanded: Mapping[str, Any], row_hashes: Sequence[str]) -> str:
    """Return the instance's SHA-256, of its canonical JSON without the name and with hashes for the trace.

    The fields of energies are left out where energy is no part of the objective: no schedule, time or bound
    depends on them then. So is an objective of time alone.

    Parameters
    ----------
    row_hashes
        Of the reads of each layer and, where the trace names experts, then of those of each layer.
    """
    body = {key: value for key, value in expanded.items() if key != "name"}
    if body.get("objective") and read_objective(expanded).time_alone:
        del body["objective"]
    kept = PRICED if weighs_energy(expanded) else ()
    for part, fields in UNHASHED.items():
        body[part] = {key: value for key, value in expanded[part].items() if key not in fields or key in kept}
    trace = {key: value for key, value in expanded["trace"].items() if key != "path"}
    trace.pop("dense", None)  # follows from the hashes
    layers = trace["layers"]
    body["trace"] = trace | {"sha256": list(row_hashes[:layers])}
    if row_hashes[layers:]:
        body["trace"]["experts_sha256"] = list(row_hashes[layers:])
    text = json.dumps(_integral(body), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _integral(value: Any) -> Any:
    """Replace integral floats by integers, recursively."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _integral(item) for key, item in value.items()}
    return [_integral(item) for item in value] if isinstance(value, list | tuple) else value


def check_identity(arrays: Mapping[str, Any], case: Case, schema: str, accounting: str) -> list[str]:
    """Return the problems of a file that was made for another instance.

    Raises
    ------
    Refused
        The file has another schema, or the instance another accounting than this schema's.
    """
    if text(arrays, "schema") != schema:
        raise Refused(f"schema is {text(arrays, 'schema')!r}, expected {schema!r}")
    if case.rules["accounting"] != accounting:
        raise Refused(f"a {schema} file needs accounting {accounting!r}, not {case.rules['accounting']!r}")
    if text(arrays, "instance_sha256") == case.sha256:
        return []
    made = text(arrays, "instance_sha256")[:12]
    return [f"the file was made for another instance: {made}..., not {case.sha256[:12]}..."]
