"""Watch a policy at work: every slot it saw, and what it wished."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvbound.instance import Instance
from kvbound.policies import MoveRequest, Policy, Slot, make_policy
from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView
from kvbound.simulation import simulate


@dataclass
class Spy:
    """A policy that passes everything on to another and keeps a copy."""

    inner: Policy
    seen: list[tuple[Slot, MoveRequest, set[int]]] = field(default_factory=list)
    name: str = "spy"

    @property
    def oracle(self) -> bool:
        return bool(getattr(self.inner, "oracle", False))

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores | None:
        return self.inner.start(instance, rng)

    def step(self, slot: Slot) -> MoveRequest:
        wish = self.inner.step(slot)
        assert isinstance(wish, MoveRequest)
        soon = set(slot.future.reads().tolist()) if self.oracle else set()
        self.seen.append((slot, wish, soon))
        return wish


def watch(instance: Instance, name: str, **options: Any) -> list[tuple[Slot, MoveRequest, set[int]]]:
    """Every slot of a run, what the policy wished there, and what the layer reads in the next step."""
    spy = Spy(make_policy(name, **options))
    simulate(instance, spy)
    return spy.seen


def resident(slot: Slot) -> list[int]:
    """Past tokens in tier 0, ascending."""
    return np.flatnonzero(slot.tier == 0).tolist()
