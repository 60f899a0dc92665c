"""The rules of placement: what is allowed, and how it is charged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from kvbound.errors import InputError
from kvbound.fields import Fields, show


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


class Overlap(StrEnum):
    """Whether each layer's transfers end with its slot, or those of all layers with the step."""

    SLOT = "slot"
    STEP = "step"


class Windows(StrEnum):
    """Whether tokens end in layers that have a sliding window when they leave it."""

    IGNORE = "ignore"
    ENDS = "ends"


class Initial(StrEnum):
    """The prompt's placement is free, or filled in order, fastest tier first."""

    FREE = "free"
    PREFILL_FIRST = "prefill-first"


class Accounting(StrEnum):
    """This project's cost model, or that of the study arXiv 2508.13231."""

    PHYSICAL = "physical"
    FANG2025 = "fang2025"


@dataclass(frozen=True)
class Rules:
    """What is allowed, and how it is charged; docs/model.md defines the terms."""

    copies: Copies = Copies.INCLUSIVE
    migration: Migration = Migration.ON_READ
    timing: Timing = Timing.PARALLEL
    initial: Initial = Initial.FREE
    granularity: int = 1
    accounting: Accounting = Accounting.PHYSICAL
    windows: Windows = Windows.IGNORE
    overlap: Overlap = Overlap.SLOT

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
        """Return the table of an instance file, `windows` and `overlap` only if they are not the default."""
        names = [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names}
        for later in ("windows", "overlap"):
            if values[later] == getattr(Rules, later):
                del values[later]
        return {name: value if isinstance(value, int) else str(value) for name, value in values.items()}
