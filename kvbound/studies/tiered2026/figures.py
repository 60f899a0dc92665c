"""Sections with the study's figures: its runs, bytes, contexts, predictions, measurements, energy."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvbound import catalog
from kvbound.errors import InfeasibleError
from kvbound.limit import Decoding, decode_limit
from kvbound.report import numbers
from kvbound.report.sections import Curves, Figure, Section, Table, plain
from kvbound.studies.tiered2026 import published
from kvbound.studies.tiered2026.published import LLAMA, MODELS, RUNS, Model
from kvbound.tiered2026 import adaptive_spread, fill_first, spill_all
from kvbound.tiered2026.roofline import compute_only, memory_bound, ridge_point

Floats = NDArray[np.float64]

A100: Final = "a100-40"
_MEMORIES: Final = {A100: "a100-40-pcie4", "t4": "t4+ddr5"}
"""Memories of the catalog on which speeds were measured."""
_POINTS: Final = 65
"""Points of a curve apart from the steps around a crossing."""
_AROUND: Final = 24


def longest_ms(times: Floats) -> float:
    """Return the longest step, ms."""
    return 1e3 * float(times.max())


def p99_ms(times: Floats) -> float:
    """Return the 99th percentile of the steps, ms, interpolated as NumPy does by default."""
    return 1e3 * float(np.percentile(times, 99))


def total_ms(times: Floats) -> float:
    """Return the time of all steps, ms."""
    return 1e3 * math.fsum(times.tolist())


def runs() -> Section:
    """The two policies over the study's two runs, at full size."""
    figures: list[Figure] = []
    for name, known in RUNS.items():
        run = known.run(MODELS[name])
        static, adaptive = spill_all(run), adaptive_spread(run)
        [crossing] = run.crossings
        figures += [
            Figure(f"{name}: step of the crossing", known.crossing, crossing.step),
            Figure(f"{name}: KV that moves, bytes", known.kv_bytes, crossing.kv_bytes),
            Figure(f"{name}: longest step, spill-all, ms", known.spill_all_ms, longest_ms(static)),
            Figure(f"{name}: longest step, adaptive-spread, ms", known.adaptive_ms, longest_ms(adaptive)),
            Figure(f"{name}: 99th percentile, spill-all, ms", known.p99_ms, p99_ms(static)),
            Figure(f"{name}: 99th percentile, adaptive-spread, ms", known.p99_ms, p99_ms(adaptive)),
            Figure(f"{name}: all steps, spill-all, ms", known.total_ms, total_ms(static)),
            Figure(f"{name}: all steps, adaptive-spread, ms", known.total_ms, total_ms(adaptive)),
        ]
    text = "The study's accounting at full size, at every scale: all steps in closed form."
    return Section((text,), tuple(figures), curves=_across_the_crossing(LLAMA))


def _across_the_crossing(model: Model) -> Curves:
    """Return the time per step of the study's policies, of the better placement, and the least."""
    run = RUNS[model.name].run(model)
    steps = _sampled(run.steps, [crossing.step for crossing in run.crossings])
    split = {
        f"HBM first, weights {where}": fill_first(run.setting, run.tokens, weights_inside=where == "inside")
        for where in ("outside", "inside")
    }
    times = {"spill-all": spill_all(run), "adaptive-spread": adaptive_spread(run), **split}
    lines = {name: (steps.tolist(), (1e3 * each[steps - 1]).tolist()) for name, each in times.items()}
    memory = published.memory(published.TIERS, model, weights_inside=True)
    few = steps[:: max(1, len(steps) // _POINTS)]
    least = [
        1e3 * decode_limit(Decoding(memory, model.llm, published.PROMPT + int(step) - 1)).time_s
        for step in few
    ]
    lines["least, weights inside"] = few.tolist(), least
    return Curves("step", "ms", lines)


def _sampled(steps: int, crossings: list[int]) -> NDArray[np.int64]:
    """Return step numbers: evenly spaced ones, all from one to the end, and those around crossings."""
    even = np.linspace(1, steps, _POINTS).round()
    near = [np.arange(step - _AROUND, step + _AROUND + 1) for step in crossings]
    found = np.unique(np.concatenate([even, *near]).astype(np.int64))
    return found[(found >= 1) & (found <= steps)]


def bytes_per_token() -> Section:
    """Bytes that a step at 4,096 tokens reads and writes, by format and window."""
    figures = []
    for name, expected in published.BYTES_PER_TOKEN.items():
        model = MODELS[name]
        full = model.setting()
        own = {
            f"{bits} bits": model.setting(bits).bytes_per_token(published.CONTEXT) for bits in published.BITS
        }
        own |= {
            f"16 bits, window of {window:,}": full.bytes_per_token(published.CONTEXT, window)
            for window in published.WINDOWS
        }
        figures += [
            Figure(f"{name}: {what}", theirs, float(ours))
            for (what, ours), theirs in zip(own.items(), expected, strict=True)
        ]
    return Section((f"Bytes per token at {published.CONTEXT:,} tokens, weights included.",), tuple(figures))


def contexts() -> Section:
    """The tier in which the KV of each context lands, by model and bits."""
    head = ("model, bits", *(f"{tokens:,}" for tokens in published.CONTEXTS))
    rows = [
        (f"{name}, {bits}", *(_landing(model, bits, tokens) for tokens in published.CONTEXTS))
        for name, model in MODELS.items()
        for bits in published.BITS
    ]
    text = "The fastest single tier that holds the whole KV, by tokens; a dash where none does."
    return Section((text,), tables=(Table(head, tuple(rows)),))


def _landing(model: Model, bits: int, tokens: int) -> str:
    try:
        return model.setting(bits).landing(tokens).name
    except InfeasibleError:
        return "-"


def predictions() -> Section:
    """Tokens/s from arithmetic and from bandwidth alone, and the ridge points."""
    gpu = catalog.gpu(A100)
    figures = [Figure("t4: ridge point, FLOP/B", published.RIDGE_T4, ridge_point(catalog.gpu("t4")))]
    for name, model in MODELS.items():
        setting, tokens = model.setting(), model.predicted_at
        compute = compute_only(gpu, setting)
        memory = memory_bound(gpu, setting, tokens)
        figures += [
            Figure(f"{name}: compute only, tokens/s", published.COMPUTE_ONLY[name], compute),
            Figure(
                f"{name}: memory bound at {tokens} tokens, tokens/s", published.MEMORY_BOUND[name], memory
            ),
        ]
    head = ("GPU", "FLOP/B at the ridge", *(f"{name}, tokens/s" for name in MODELS))
    rows = []
    for each in catalog.names(catalog.Kind.GPU):
        gpu = catalog.gpu(each)
        speeds = [memory_bound(gpu, model.setting(), model.predicted_at) for model in MODELS.values()]
        rows.append((each, f"{ridge_point(gpu):.1f}", *(f"{speed:,.1f}" for speed in speeds)))
    text = "Predictions for the A100 with 40 GB, then those from bandwidth for all of the study's GPUs."
    return Section((text,), tuple(figures), (Table(head, tuple(rows)),))


def most_tokens_per_s(gpu: str, model: Model) -> float:
    """Return tokens/s that no placement exceeds on a GPU and its host, with the KV of the prompt alone."""
    context = model.predicted_at - published.DECODED
    return 1 / decode_limit(Decoding(catalog.memory(_MEMORIES[gpu]), model.llm, context)).time_s


def measured() -> Section:
    """Speeds measured with llama.cpp, below what the time lower bound allows."""
    head = ("GPU, model", "measured", "at most", "share of it", "share of the bandwidth")
    rows = []
    for (gpu, name), (slow, fast) in published.MEASURED.items():
        model = MODELS[name]
        most = most_tokens_per_s(gpu, model)
        share = fast / memory_bound(catalog.gpu(gpu), model.setting(), model.predicted_at)
        shown = f"{slow:g}" if slow == fast else f"{slow:g} to {fast:g}"
        rows.append(
            (f"{gpu}, {name}", shown, f"{most:,.1f}", numbers.share(fast / most), numbers.share(share))
        )
    text = (
        "Tokens/s that the study measured with llama.cpp, and the most that any placement allows on this GPU "
        "and its host's memory, from the time lower bound of a step at the prompt's length."
    )
    return Section((text,), tables=(Table(head, tuple(rows)),))


def energy() -> Section:
    """Energy of a step by the study's constants: weights, KV, arithmetic."""
    head = (
        "model, tokens",
        "tier",
        "weights, mJ",
        "KV, mJ",
        "MAC, mJ",
        "weights",
        "KV",
        "MAC",
        "memory / MAC",
    )
    rows = []
    for name, model in MODELS.items():
        setting = model.setting()
        for tokens in (128, published.CONTEXT, 65_536, 131_072):
            parts = setting.joules(tokens)
            shares = (numbers.share(part / sum(parts)) for part in parts)
            rows.append(
                (
                    f"{name}, {tokens:,}", setting.landing(tokens).name,
                    *(f"{1e3 * part:,.4g}" for part in parts), *shares,
                    f"{(parts[0] + parts[1]) / parts[2]:,.1f}x",
                )
            )  # fmt: skip
    places = {place.name: place.joules * 1e12 for place in LLAMA.setting().tiers}
    own = ", ".join(f"{name} {plain(value)}" for name, value in places.items())
    text = f"Bytes times pJ per byte ({own}), and 0.5 pJ for each of two operations per parameter."
    return Section((text,), tables=(Table(head, tuple(rows)),))
