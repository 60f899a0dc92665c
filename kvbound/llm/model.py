"""Language models: KV bytes per token and layer, and weight bytes resident and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import MAX_BYTES, MAX_EXPERTS, Fields, located, show
from kvbound.llm.formats import FORMATS, known
from kvbound.units import UnitError, exact_share, whole_up

MAX_LAYERS: Final = 4096
MAX_KV_BYTES: Final = 2**40
WEIGHTS: Final = "resident", "placeable"
# fields that follow from the others, or only describe the model
_DERIVED: Final = ("model_type", "kv_layers", "kv_bytes_per_token", "kv_bytes_per_token_layers")
MAX_PARAMETERS: Final = 2**53


@dataclass(frozen=True)
class Llm:
    """A language model, reduced to what KV placement depends on.

    Parameters
    ----------
    name
        Name for display, and of catalog entries.
    layers
        Layers.
    kv_bytes_per_token_layer
        Bytes of one token's KV entry in a layer: one number for all layers, or one per layer, 0 where a layer
        keeps none.
    weight_bytes
        Bytes of all weights; those that are not placeable stay in tier 0. Rounded up to an int.
    weight_read_bytes_per_layer
        Bytes of weights read in every slot, from tier 0 unless they are placeable: one number for all layers,
        or one per layer.
    source
        What the model is, and the origin of its numbers.
    sources
        Dotted field to the origin of its number.
    windows
        Sliding window of each layer in tokens, None where attention is full; empty if unknown. Only under the
        rule ``windows: ends`` do tokens end when they leave it.
    config
        The fields of the model's published ``config.json`` that the numbers follow from.
    weights
        "resident": all weights stay in tier 0; "placeable": the weights that layers read may be in any tier.
    weight_chunk_bytes
        Bytes of the chunks in which placeable weights are placed, None for all that a layer reads.
    experts, expert_bytes
        Routed experts of a layer and the bytes of each: one number for all layers, or one per layer, 0 where
        there are none. They only describe the model unless the trace names experts.
    experts_read
        How many experts `weight_read_bytes_per_layer` counts in layers that have any, possibly a mean.
    kv_format
        Number format of the cache with these bytes; see `kvbound.llm.formats`. Other formats that a tier may
        hold are derived from it.
    parameters
        Number of parameters, None if unknown. Only the energy of arithmetic depends on it, and only where
        there are no experts.

    Raises
    ------
    InputError
        A number is not finite, negative or out of range, or the number of layers differs.
    """

    name: str
    layers: int
    kv_bytes_per_token_layer: int | tuple[int, ...]
    weight_bytes: float
    weight_read_bytes_per_layer: float | tuple[float, ...]
    source: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    windows: tuple[int | None, ...] = field(default=(), compare=False, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    kv_format: str = field(default="f16", compare=False, repr=False)
    weights: str = "resident"
    weight_chunk_bytes: int | None = None
    experts: int | tuple[int, ...] = field(default=0, compare=False)
    expert_bytes: int | tuple[int, ...] = field(default=0, compare=False)
    experts_read: float = field(default=0.0, compare=False)
    parameters: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._require("layers", self.layers, 1, MAX_LAYERS)
        self._set_kv_bytes(self.kv_bytes_per_token_layer)
        try:
            object.__setattr__(self, "weight_bytes", whole_up(self.weight_bytes))
        except UnitError as error:
            raise self._error("weight_bytes", str(error)) from None
        self._require("weight_bytes", self.weight_bytes, 0, MAX_BYTES)
        reads = self.weight_read_bytes_per_layer
        for value in reads if isinstance(reads, tuple) else (reads,):
            self._require("weight_read_bytes_per_layer", value, 0, MAX_BYTES)
        if isinstance(reads, tuple):
            self._one_each("weight_read_bytes_per_layer", len(reads))
        if self.windows:
            self._one_each("windows", len(self.windows))
        if self.weights not in WEIGHTS:
            raise self._error("weights", f"one of {', '.join(map(repr, WEIGHTS))}, not {show(self.weights)}")
        if self.weight_chunk_bytes is not None:
            self._require("weight_chunk_bytes", self.weight_chunk_bytes, 1, MAX_BYTES)
        if self.parameters is not None:
            self._require("parameters", self.parameters, 0, MAX_PARAMETERS)
        self._check_experts()

    def _set_kv_bytes(self, sizes: int | tuple[int, ...]) -> None:
        """Validate the KV sizes; a list of equal ones becomes one number."""
        what = "kv_bytes_per_token_layer"
        if not isinstance(sizes, tuple | list):
            return self._require(what, sizes, 1, MAX_KV_BYTES)
        self._one_each(what, len(sizes))
        for size in sizes:
            self._require(what, size, 0, MAX_KV_BYTES)
        if not any(sizes):
            raise self._error(what, "a layer with at least 1 byte, not 0 in all")
        equal = len(set(sizes)) == 1
        object.__setattr__(self, what, int(sizes[0]) if equal else tuple(int(size) for size in sizes))

    def _check_experts(self) -> None:
        for what, high in (("experts", MAX_EXPERTS), ("expert_bytes", MAX_BYTES)):
            values = getattr(self, what)
            if isinstance(values, tuple):
                self._one_each(what, len(values))
            for value in values if isinstance(values, tuple) else (values,):
                self._require(what, value, 0, high)
        if any(count and not size for count, size in zip(self.expert_counts, self.expert_sizes, strict=True)):
            raise self._error("expert_bytes", "the bytes of an expert in every layer that has any, not 0")
        self._require("experts_read", self.experts_read, 0, max(self.expert_counts))

    def _one_each(self, what: str, count: int) -> None:
        if count != self.layers:
            raise self._error(what, f"one entry for each of the {self.layers} layers, not {count}")

    def _require(self, what: str, value: float, low: float, high: float) -> None:
        counts = (
            "layers", "kv_bytes_per_token_layer", "weight_chunk_bytes", "experts", "expert_bytes",
            "parameters",
        )  # fmt: skip
        whole = what not in counts or isinstance(value, (int, np.integer))
        if not (whole and low <= value <= high):  # false for NaN, too
            raise self._error(what, f"{low:,} to {high:,}, not {show(value)}")

    def _error(self, what: str, expected: str) -> InputError:
        return InputError(f"llm {self.name!r}", what, expected)

    @property
    def weight_reads(self) -> NDArray[np.float64]:
        """Bytes of weights read in a slot of each layer, ``(layers,)``."""
        return np.broadcast_to(np.asarray(self.weight_read_bytes_per_layer, np.float64), self.layers).copy()

    @property
    def kv_sizes(self) -> tuple[int, ...]:
        """Bytes of one token's KV in each layer, shape (layers,)."""
        sizes = self.kv_bytes_per_token_layer
        return sizes if isinstance(sizes, tuple) else (int(sizes),) * int(self.layers)

    @property
    def expert_counts(self) -> tuple[int, ...]:
        """Routed experts of each layer, shape (layers,)."""
        return self.experts if isinstance(self.experts, tuple) else (self.experts,) * self.layers

    @property
    def expert_sizes(self) -> tuple[int, ...]:
        """Bytes of one of each layer's routed experts, 0 where there are none, shape (layers,)."""
        sizes = self.expert_bytes
        each = sizes if isinstance(sizes, tuple) else (sizes,) * self.layers
        return tuple(size if count else 0 for count, size in zip(self.expert_counts, each, strict=True))

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the KV entries of `tokens` tokens in all layers."""
        return int(tokens) * sum(self.kv_sizes)

    def kv_kept(self, tokens: int) -> list[int]:
        """Bytes of KV that a sequence of `tokens` tokens needs to go on, shape (layers,).

        A sliding window counts the next token, so that one fewer is kept.
        """
        windows = self.windows or (None,) * self.layers
        kept = (tokens if window is None else min(tokens, window - 1) for window in windows)
        return [count * size for count, size in zip(kept, self.kv_sizes, strict=True)]

    def room_for_share(self, share: float | Fraction, kv_bytes: int, placeable_bytes: int = 0) -> int:
        """Capacity in bytes for the resident weights and a `share` of some KV.

        The share is exact (0.3 is three tenths); its bytes are rounded to the nearest integer.
        """
        return int(self.weight_bytes) - placeable_bytes + round(exact_share(share) * kv_bytes)

    @classmethod
    def from_mapping(cls, mapping: object, file: object = "llm", field: str = "") -> Llm:
        """Read a language model in the form of instance files and the catalog.

        Parameters
        ----------
        mapping
            ``name``, ``layers``, ``weight_bytes``, and ``kv_bytes_per_token_layer`` and
            ``weight_read_bytes_per_layer`` (each a number or a list of one per layer); optionally
            ``source``, ``sources``, ``windows``, ``config``, ``kv_format``, ``weights``,
            ``weight_chunk_bytes``, ``experts``, ``expert_bytes``, ``experts_read``, ``parameters``, and what
            `kvbound.llm.config.Architecture.to_mapping` adds. Numbers are bytes; text carries a unit.
        file, field
            Place of `mapping`, for messages.

        Raises
        ------
        InputError
            A field is missing or invalid; the message names it and what was expected.
        """
        fields = Fields(mapping, file, field)
        sources, config = fields.child("sources", {}), fields.child("config", {})
        llm: dict[str, Any] = {
            "name": fields.name("name"),
            "layers": fields.integer("layers", 1, MAX_LAYERS),
            "kv_bytes_per_token_layer": _kv_bytes(fields),
            "weight_bytes": math.ceil(fields.bytes("weight_bytes")),
            "weight_read_bytes_per_layer": _weight_reads(fields),
            "source": fields.text("source", ""),
            "sources": {path: sources.text(path) for path in sources},
            "windows": _windows(fields),
            "config": {key: config.raw(key) for key in config},
            "kv_format": _kv_format(fields),
            "weights": fields.text("weights", "resident"),
            "weight_chunk_bytes": _chunk_bytes(fields),
            **_experts(fields),
            "parameters": fields.integer("parameters", 0, MAX_PARAMETERS, default=None),
        }
        for key in _DERIVED:
            fields.has(key)
        fields.done()
        with located(file, field):
            return cls(**llm)

    def experts_mapping(self) -> dict[str, Any]:
        """Return the fields of experts, those at their defaults left out."""
        if not any(self.expert_counts):
            return {}
        fields: dict[str, Any] = {
            "experts": list(self.expert_counts),
            "expert_bytes": list(self.expert_sizes),
        }
        return fields | ({"experts_read": self.experts_read} if self.experts_read else {})

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that results depend on, in bytes, as in expanded instances."""
        sizes = self.kv_bytes_per_token_layer
        placed: dict[str, Any] = {} if self.weights == "resident" else {"weights": self.weights}
        if placed and self.weight_chunk_bytes is not None:
            placed["weight_chunk_bytes"] = self.weight_chunk_bytes
        used = self.parameters is not None and not any(self.expert_counts)
        known: dict[str, Any] = {"parameters": self.parameters} if used else {}
        return {
            "name": self.name,
            "layers": self.layers,
            "kv_bytes_per_token_layer": list(sizes) if isinstance(sizes, tuple) else sizes,
            "weight_bytes": self.weight_bytes,
            "weight_read_bytes_per_layer": self.weight_reads.tolist(),
            **placed,
            **known,
        }


def _kv_bytes(fields: Fields) -> int | tuple[int, ...]:
    key = "kv_bytes_per_token_layer"
    value = fields.raw(key, "a size, or a list of one per layer")
    listed = isinstance(value, (list, tuple))
    sizes = []
    for each in value if listed else (value,):
        size, least = Fields({key: each}, fields.file, fields.field).bytes(key), 0 if listed else 1
        if not (least <= size <= MAX_KV_BYTES and size.denominator == 1):
            whole = f"a whole number of bytes from {least} to {MAX_KV_BYTES:,}"
            raise fields.error(key, f"{whole}, not {show(each)}")
        sizes.append(int(size))
    return tuple(sizes) if listed else sizes[0]


def _chunk_bytes(fields: Fields) -> int | None:
    key = "weight_chunk_bytes"
    return int(fields.bytes(key)) if fields.has(key) and fields.raw(key) is not None else None


def _experts(fields: Fields) -> dict[str, Any]:
    """Read what describes the routed experts."""

    def whole(key: str, size: bool) -> int | tuple[int, ...]:
        value = fields.raw(key, default=0)
        listed = isinstance(value, (list, tuple))
        found = []
        for each in value if listed else (value,):
            one = Fields({key: each}, fields.file, fields.field)
            number = one.bytes(key) if size else one.integer(key, 0, MAX_EXPERTS)
            if number != int(number):
                raise fields.error(key, f"a whole number of bytes, not {show(each)}")
            found.append(int(number))
        return tuple(found) if listed else found[0]

    return {
        "experts": whole("experts", size=False),
        "expert_bytes": whole("expert_bytes", size=True),
        "experts_read": fields.number("experts_read", 0, MAX_EXPERTS, default=0.0),
    }


def _kv_format(fields: Fields) -> str:
    name = fields.raw("kv_format", default="f16")
    if name != "" and (not isinstance(name, str) or known(name) is None):
        raise fields.error("kv_format", f"one of {', '.join(FORMATS)}, not {show(name)}")
    return str(name)


def _weight_reads(fields: Fields) -> float | tuple[float, ...]:
    key = "weight_read_bytes_per_layer"
    value = fields.raw(key, "a size, or a list of one per layer")
    if not isinstance(value, (list, tuple)):
        return float(fields.bytes(key))
    return tuple(float(Fields({key: size}, fields.file, fields.field).bytes(key)) for size in value)


def _windows(fields: Fields) -> tuple[int | None, ...]:
    values = fields.items("windows", ())
    for value in values:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise fields.error("windows", f"tokens, or null for full attention, per layer, not {show(value)}")
    return tuple(values)
