"""Dense reads: every step reads all past tokens, as full attention does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kvbound.fields import Fields
from kvbound.trace import bits
from kvbound.workloads.synthetic import OneSequence


@dataclass(frozen=True)
class Dense(OneSequence):
    """Reads of all past tokens; of its parameters only the shape matters."""

    kind: ClassVar[str] = "dense"
    dense: ClassVar[bool] = True

    sparsity: float = 0.0

    @classmethod
    def parse(cls, fields: Fields) -> dict[str, Any]:
        """Read and check every field."""
        values = super().parse(fields)
        if values["sparsity"] != 0:
            raise fields.error("sparsity", "0, as dense reads leave no token out")
        return values

    def step_counts(self) -> NDArray[np.int64]:
        """Reads of each step, (steps,)."""
        return self.past

    def layer_rows(self, layer: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        token = np.arange(8 * bits.row_bytes(self.tokens))
        for block in bits.blocks(self.decode_steps):
            yield bits.pack(token < self.past[block, None])
