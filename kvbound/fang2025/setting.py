"""The parameters of the study's simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InfeasibleError, InputError
from kvbound.units import UnitError, whole_down, whole_up

if TYPE_CHECKING:
    from kvbound.instance import Instance
    from kvbound.memory import Memory

_SAME_RATE = "a read bandwidth other than the internal one: with equal ones the accounting divides by zero"


@dataclass(frozen=True)
class Setting:
    """Model and hardware of one run.

    Parameters
    ----------
    item_bytes
        K, the KV of one token and layer.
    weight_reads
        W, weight bytes read per step, one per layer.
    weight_bytes
        Weights resident in HBM. Rounded up to an int.
    capacity
        Bytes of HBM. Rounded down to an int.
    b_hbm, b_read, b_write, b_internal
        Bytes per second: HBM, the external link's two directions, the external memory itself.
    name
        Name in messages.

    Raises
    ------
    InputError
        A number is out of range, or `b_read` equals `b_internal`, where the accounting divides by zero.
    InfeasibleError
        The weights do not fit HBM.
    """

    item_bytes: int
    weight_reads: tuple[float, ...]
    weight_bytes: float
    capacity: float
    b_hbm: float
    b_read: float
    b_write: float
    b_internal: float
    name: str = "fang2025 setting"

    def __post_init__(self) -> None:
        for field in ("item_bytes", "b_hbm", "b_read", "b_write", "b_internal"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(self.name, field, f"a number above 0, not {getattr(self, field)!r}")
        if not self.weight_reads or not all(0 <= w < math.inf for w in self.weight_reads):
            raise InputError(self.name, "weight_reads", f"a number >= 0 per layer, not {self.weight_reads!r}")
        if self.b_read == self.b_internal:
            raise InputError(self.name, "b_read", _SAME_RATE)
        for field, whole in {"weight_bytes": whole_up, "capacity": whole_down}.items():
            try:
                object.__setattr__(self, field, whole(getattr(self, field)))
            except UnitError as error:
                raise InputError(self.name, field, str(error)) from None
        if self.capacity < self.weight_bytes:
            raise InfeasibleError(
                f"{self.name}: {self.weight_bytes} bytes of weights do not fit HBM's {self.capacity}"
            )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.weight_reads)

    @property
    def room(self) -> int:
        """M, the number of items that fit beside the weights; the rules use at most M - 1."""
        return (int(self.capacity) - int(self.weight_bytes)) // self.item_bytes

    @property
    def usable(self) -> int:
        """Largest number of items in the pool: an add needs M - (count + 1) > 0."""
        return max(self.room - 1, 0)

    @property
    def b_external(self) -> float:
        """Rate at which the external memory delivers reads, in bytes per second."""
        return min(self.b_read, self.b_internal)

    @property
    def alpha_cap(self) -> float:
        """alpha*, the share of reads at which HBM and the external memory finish together."""
        # in GB/s as in the study: the rounding matters where a rule truncates alpha* D to whole items
        hbm, external = self.b_hbm / 1e9, self.b_external / 1e9
        return hbm / (hbm + external)

    def slot_bytes(self, reads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return W + K * reads for each slot ``(steps, layers)``: D, if these are all reads."""
        return np.array(self.weight_reads, np.float64) + reads * self.item_bytes

    @classmethod
    def from_instance(cls, instance: Instance) -> Setting:
        """Take the numbers from an instance under ``fang2025`` accounting.

        Raises
        ------
        InputError
            The instance does not have the study's form: two tiers, inclusive copies, parallel timing,
            granularity 1, one HBM resource, and for tier 1 one resource shared by its reads and its writes
            and one more for each.
        """
        wanted = {"copies": "inclusive", "timing": "parallel", "granularity": 1}
        for rule, value in wanted.items():
            if (found := getattr(instance.rules, rule)) != value:
                expected = f"{value} with fang2025 accounting, not {found}"
                raise InputError(instance.name, f"rules.{rule}", expected)
        hbm, read, write, internal = _bandwidths(instance.memory, instance.name)
        return cls(
            item_bytes=int(instance.item_bytes[0]),
            weight_reads=tuple(float(w) for w in instance.llm.weight_reads),
            weight_bytes=instance.llm.weight_bytes,
            capacity=instance.memory.tiers[0].capacity or 0,  # only the last tier may be unlimited
            b_hbm=hbm, b_read=read, b_write=write, b_internal=internal, name=instance.name,
        )  # fmt: skip


def _bandwidths(memory: Memory, name: str) -> tuple[float, float, float, float]:
    """Return the bandwidths of HBM, external reads, external writes and the external memory itself."""
    if len(memory.tiers) != 2:
        raise InputError(name, "memory.tiers", f"two tiers with fang2025 accounting, not {len(memory.tiers)}")
    near, far = memory.tiers
    reads, writes = set(far.reads), set(far.writes)
    at = f"memory.tiers.{far.name}"

    def only(field: str, what: str, resources: set[str]) -> float:
        if len(resources) != 1:
            found = ", ".join(sorted(resources)) or "none"
            raise InputError(name, field, f"one resource {what} with fang2025 accounting, not {found}")
        return memory.resources[resources.pop()]

    if not near.writes:
        raise InputError(
            name, f"memory.tiers.{near.name}.writes", "a resource with fang2025 accounting, not none"
        )
    hbm = only(f"memory.tiers.{near.name}", "for reads and writes", set(near.reads) | set(near.writes))
    internal = only(at, "that stands in both reads and writes", reads & writes)
    read = only(f"{at}.reads", "besides the one shared with writes", reads - writes)
    write = only(f"{at}.writes", "besides the one shared with reads", writes - reads)
    if read == internal:
        raise InputError(name, f"{at}.reads", _SAME_RATE)
    return hbm, read, write, internal
