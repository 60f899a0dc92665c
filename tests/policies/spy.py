"""A policy that records the slots that another one sees, and its requests."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvbound.instance import Instance
from kvbound.policies import Birth, MoveRequest, Policy, Slot, make_policy
from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView
from kvbound.simulation import simulate


@dataclass
class Spy:
    """A policy that calls another one and keeps copies of its arguments and requests."""

    inner: Policy
    seen: list[tuple[Slot, MoveRequest, set[int]]] = field(default_factory=list)
    name: str = "spy"

    @property
    def oracle(self) -> bool:
        return bool(getattr(self.inner, "oracle", False))

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores | None:
        return self.inner.start(instance, rng)

    def step(self, slot: Slot) -> MoveRequest:
        request = self.inner.step(slot)
        assert isinstance(request, MoveRequest)
        soon = set(slot.future.reads().tolist()) if self.oracle else set()
        self.seen.append((slot, request, soon))
        return request


def watch(instance: Instance, name: str, **options: Any) -> list[tuple[Slot, MoveRequest, set[int]]]:
    """Every slot of a run, the policy's request, and what the layer reads in the next step."""
    spy = Spy(make_policy(name, **options))
    simulate(instance, spy)
    return spy.seen


def resident(slot: Slot) -> list[int]:
    """Past tokens in tier 0 that exist after the slot, ascending."""
    return [token for token in np.flatnonzero(slot.tier == 0).tolist() if slot.staying[token]]


def births(slot: Slot, request: MoveRequest) -> list[Birth]:
    """Return the requested admission of every new token."""
    return [request.birth] * slot.births if isinstance(request.birth, Birth) else list(request.birth)
