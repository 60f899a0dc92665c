"""The study's models on its tiers, and its formulas one step at a time."""

from dataclasses import replace

from kvbound import catalog
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.tiered2026 import Setting

WEIGHTS = {"smollm2-135m": 105_454_432, "tinyllama-1.1b": 668_788_096, "llama-2-7b": 4_081_004_224}
PARAMETERS = {"smollm2-135m": 135_000_000, "tinyllama-1.1b": 1_100_000_000, "llama-2-7b": 6_700_000_000}


def model(name: str) -> Llm:
    return replace(catalog.llm(name), weight_bytes=WEIGHTS[name], parameters=PARAMETERS[name])


def setting(name: str, bits: int = 16, memory: str | Memory = "tiered2026") -> Setting:
    given = catalog.memory(memory) if isinstance(memory, str) else memory
    return Setting.of(given, model(name), bits)


def literal(
    case: Setting, prompt: int, steps: int, spread: int
) -> tuple[list[float], list[tuple[int, str, str]]]:
    """Return the times of all steps and the crossings, by a loop over steps."""
    times: list[float] = []
    crossings, before = [], None
    for step in range(1, steps + 1):
        size = (prompt + step) * case.kv_bytes
        holder = next(place for place in case.tiers if place.holds(size))
        written = float(case.kv_bytes) / holder.write
        times.append(case.weight_bytes / case.home.read + float(size) / holder.read + written)
        if before is not None and holder != before:
            crossings.append((step, before.name, holder.name))
            for paying in range(step - spread + 1, step + 1):
                if paying >= 1:
                    times[paying - 1] += float(size) / holder.write / spread
        before = holder
    return times, crossings
