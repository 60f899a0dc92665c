"""Which instance a result belongs to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvbound.instance import Instance
from kvbound.objective import TIME_ALONE


@dataclass(frozen=True)
class InstanceId:
    """The instance that a result belongs to; `sha256` is None if the trace was not needed.

    `tokens` counts those of the trace, `ids` also the chunks of weights before them. `objective` is empty for
    time alone.
    """

    name: str
    sha256: str | None
    layers: int
    prefill_tokens: int
    decode_steps: int
    tokens: int
    ids: int
    outputs: int
    reads: int
    objective: str = ""

    def to_json(self) -> dict[str, str | int | None]:
        """Return what JSON holds; what follows from one birth in every step is left out."""
        values = dataclasses.asdict(self)
        del values["ids"], values["objective"]
        if self.tokens == self.prefill_tokens + self.decode_steps:
            del values["tokens"]
        if self.outputs == self.decode_steps:
            del values["outputs"]
        return values


def identify(instance: Instance, *, with_trace: bool = True) -> InstanceId:
    """Return the instance as a result names it; its hash needs the trace."""
    return InstanceId(
        name=instance.name,
        sha256=instance.sha256 if with_trace else None,
        layers=instance.layers,
        prefill_tokens=instance.workload.prefill_tokens,
        decode_steps=instance.decode_steps,
        tokens=instance.workload.tokens,
        ids=instance.tokens,
        outputs=int(instance.timeline.outputs.sum()),
        reads=int(instance.read_counts().sum()),
        objective="" if instance.objective == TIME_ALONE else str(instance.objective),
    )
