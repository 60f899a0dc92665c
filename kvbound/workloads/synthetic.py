"""Base classes of synthetic workloads: what all share, and the parameters of a single sequence."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from kvbound.fields import Fields, located
from kvbound.trace import bits
from kvbound.trace.build import MAX_LAYERS, too_large
from kvbound.trace.timeline import MAX_TOKENS, Timeline


class CountRule(StrEnum):
    """Rule for how many of n past tokens a slot reads; share = 1 - sparsity."""

    ROUND_BEFORE = "round(n-1)"
    """round(share (n - 1)), ties to even: the synthetic traces of fang2025."""
    CEIL_WITH_OWN = "ceil(n+1)"
    """ceil(share (n + 1)): the recorded traces of fang2025, which count the step's own token."""
    CEIL_PAST = "ceil(n)"
    """ceil(share n): the recordings of kvbound's library."""

    def counts(self, share: float, past: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the reads for numbers of past tokens, at most all; 0.15 * 20 is 3, not slightly more."""
        match self:
            case CountRule.ROUND_BEFORE:
                wanted = np.rint(share * (past - 1))
            case CountRule.CEIL_WITH_OWN:
                wanted = np.ceil(np.round(share * (past + 1), 9))
            case CountRule.CEIL_PAST:
                wanted = np.ceil(np.round(share * past, 9))
        counts: NDArray[np.int64] = np.clip(wanted.astype(np.int64), 0, past)
        return counts


class Synthetic(ABC):
    """A workload generated from a few parameters and a seed."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Incremented when the same parameters give other reads."""
    dense: ClassVar[bool] = False
    """Whether every step reads all past tokens that exist, so that reads follow from the timeline."""

    layers: int
    prefill_tokens: int
    """Tokens that exist before the first step."""
    decode_steps: int

    @property
    @abstractmethod
    def timeline(self) -> Timeline:
        """Births and ends of the tokens."""

    @abstractmethod
    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping that `kvbound.workloads.from_mapping` reads."""

    @abstractmethod
    def step_counts(self) -> NDArray[np.int64]:
        """Return the reads of each step, equal in all layers, (steps,), without making the trace."""

    @abstractmethod
    def packed_rows(self, layer: int) -> Iterator[NDArray[np.uint8]]:
        """Yield packed rows of one layer in blocks (rows, bytes)."""

    @property
    def experts(self) -> tuple[NDArray[np.uint8], ...]:
        """Packed experts that each step names, by layer; empty unless a workload names any."""
        return ()

    @property
    def expert_counts(self) -> tuple[int, ...]:
        """Number of experts of each layer; empty unless a workload names any."""
        return ()

    @property
    def tokens(self) -> int:
        """Prompt and born tokens."""
        return self.timeline.tokens

    @property
    def packed_bytes(self) -> int:
        """Bytes of all packed rows."""
        return self.layers * self.decode_steps * bits.row_bytes(self.tokens)

    def source(self) -> str:
        """Return the `source` of traces made from this workload."""
        return f"kvbound synthetic {json.dumps(self.to_mapping(), sort_keys=True)}"


@dataclass(frozen=True)
class OneSequence(Synthetic):
    """A workload of one sequence.

    Parameters
    ----------
    layers, prefill_tokens, decode_steps
        Shape of the trace.
    sparsity
        Share of the past tokens that a slot does not read.
    seed
        Seed from which every layer's random stream is spawned.

    Raises
    ------
    InputError
        A value is out of range.
    """

    layers: int
    prefill_tokens: int
    decode_steps: int
    sparsity: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in self.parse(Fields(values, f"workload {self.kind}")).items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, fields: Fields) -> dict[str, Any]:
        """Read and validate every field; subclasses add theirs."""
        values = {
            "layers": fields.integer("layers", 1, MAX_LAYERS),
            "prefill_tokens": fields.integer("prefill_tokens", 1, MAX_TOKENS),
            "decode_steps": fields.integer("decode_steps", 1, MAX_TOKENS),
            "sparsity": fields.share("sparsity"),
            "seed": fields.integer("seed"),
        }
        layers, prefill, steps = (int(values[name]) for name in ("layers", "prefill_tokens", "decode_steps"))
        if excess := too_large(layers, prefill + steps, steps):
            raise fields.error("decode_steps", excess)
        return values

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, file: object = "workload", field: str = "") -> Self:
        """Read a workload of this kind from the form of instance files."""
        fields = Fields(mapping, file, field)
        fields.raw("kind", default=cls.kind)
        known = dataclasses.fields(cls)
        given = [each.name for each in known if fields.has(each.name) or each.default is dataclasses.MISSING]
        fields.done()
        values = {name: fields.raw(name) for name in given}
        with located(file, field):
            return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping that `from_mapping` reads."""
        values = dataclasses.asdict(self)
        return {"kind": self.kind} | {k: str(v) if isinstance(v, StrEnum) else v for k, v in values.items()}

    @property
    def past(self) -> NDArray[np.int64]:
        """Past tokens n of every step, (steps,)."""
        return self.prefill_tokens + np.arange(self.decode_steps)

    @cached_property
    def timeline(self) -> Timeline:
        """Births and ends: one birth in every step, and no ends."""
        return Timeline.of(self.prefill_tokens, self.decode_steps)

    @property
    def share(self) -> float:
        """Share of the past tokens that a slot reads."""
        return 1 - self.sparsity

    @abstractmethod
    def layer_rows(self, layer: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Yield packed rows of one layer in blocks (rows, bytes)."""

    def packed_rows(self, layer: int, sequence: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield packed rows of one layer in blocks (rows, bytes); every sequence of a batch has its own."""
        key = (layer, sequence) if sequence else (layer,)
        return self.layer_rows(layer, np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key)))
