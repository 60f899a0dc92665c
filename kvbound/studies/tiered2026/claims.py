"""The claims of the article, each with our number and a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kvbound import catalog
from kvbound.llm.formats import FORMATS
from kvbound.report.sections import Figure, Section
from kvbound.studies.tiered2026 import published
from kvbound.studies.tiered2026.figures import A100, longest_ms, most_tokens_per_s, p99_ms, total_ms
from kvbound.studies.tiered2026.published import CONTEXT, LLAMA, MODELS, RUNS, TINYLLAMA
from kvbound.studies.tiered2026.sweeps import least_s
from kvbound.tiered2026 import SPREAD, adaptive_spread, fill_first, spill_all

FALL_PERCENT: Final = -46.81820639
"""How much the longest step of the Llama run falls."""
MIGRATION_MS: Final = 476.0
"""The article's time of the move from HBM to DRAM."""
Q4_PERCENT, WINDOW_PERCENT = 75.0, 30.0
"""What 4 bits and the sliding window save, of the KV and of all bytes of Llama-2-7B."""
BANDWIDTH_RATIO, MEASURED_RATIO = 4.86, 4.21
"""T4 to A100: bandwidth, and measured speed of Llama-2-7B."""
ENERGY_RATIO: Final = 700.0
"""Access to memory over arithmetic, said to be more than this."""
SHARE_PERCENT: Final = 42.0
"""Share of the A100's bandwidth that Llama-2-7B was measured to reach."""


def claims() -> Section:
    """Every claim of the article as a row."""
    figures = [*_latency(), *_room(), *_formats(), *_speeds(), *_energy(), *_models()]
    text = (
        "What the article and its code claim, our number by the same rules, and a verdict. A dash: no number "
        "is given, or none can be computed here."
    )
    return Section((text,), tuple(figures))


def _latency() -> Iterator[Figure]:
    run = RUNS[LLAMA.name].run(LLAMA)
    static, adaptive = spill_all(run), adaptive_spread(run)
    [crossing] = run.crossings
    fall = 100 * (longest_ms(adaptive) / longest_ms(static) - 1)
    yield Figure("longest step of Llama-2-7B, adaptive, %", FALL_PERCENT, fall, _agrees(FALL_PERCENT, fall))
    tail = 100 * (p99_ms(adaptive) / p99_ms(static) - 1)
    yield Figure("its 99th percentile, adaptive, %", 0, tail, "no gain at the percentile it reports")
    total = total_ms(adaptive) / total_ms(static)
    yield Figure("time of all its steps, adaptive / static", 1, total, "the move is spread, not saved")
    before, after = run.plain_s[crossing.step - 2], run.plain_s[crossing.step - 1]
    drop = float(after / before)
    yield Figure(
        "no sudden drop: step after the crossing / before",
        None,
        drop,
        "contradicted: it stays slow",
    )
    split = float(fill_first(run.setting, run.tokens[-1:], weights_inside=False)[0])
    remaining = float(run.plain_s[-1]) / split
    yield Figure("its last step / HBM first, side by side", None, remaining, "the placement causes the drop")
    small = RUNS[TINYLLAMA.name].run(TINYLLAMA)
    gain = 100 * (longest_ms(adaptive_spread(small)) / longest_ms(spill_all(small)) - 1)
    yield Figure("longest step of TinyLlama, adaptive, %", 0, gain, "no gain: its last step is the longest")
    move = 1e3 * crossing.seconds
    yield Figure("move from HBM to DRAM, ms", MIGRATION_MS, move, "its own constants give more")
    saved = move * (SPREAD - 1) / SPREAD
    yield Figure("the same without the crossing's share, ms", MIGRATION_MS, saved, "near; not the whole move")


def _room() -> Iterator[Figure]:
    setting = LLAMA.setting()
    hbm, far = setting.most_tokens(setting.home), setting.most_tokens(setting.tiers[-1])
    together = sum(int(setting.most_tokens(place)) for place in setting.tiers)
    yield Figure("longer contexts fit: tokens in FAR / in HBM", None, far / hbm, "holds")
    yield Figure("tokens in all tiers together / in HBM", None, together / hbm, "more, if KV may be split")
    inside = published.memory(published.TIERS, LLAMA, weights_inside=True)
    users = int(hbm) // CONTEXT
    yield Figure(f"users of {CONTEXT:,} tokens in HBM", None, users, "without room for the weights")
    first = inside.tiers[0].capacity
    room = int(((first or 0) - LLAMA.weight_bytes) / (CONTEXT * setting.kv_bytes))
    yield Figure("the same with the weights in HBM", None, room, "fewer than the study's rules allow")
    outside = published.memory(published.TIERS, LLAMA, weights_inside=False)
    slower = least_s(outside, LLAMA.llm, CONTEXT, users + 1) / least_s(outside, LLAMA.llm, CONTEXT, users)
    yield Figure("one user more: least time per step, ratio", None, slower, "far less than by its rules")


def _formats() -> Iterator[Figure]:
    full = FORMATS["f16"].bytes / FORMATS["f16"].values
    quantised = FORMATS["q4_0"]
    bare, real = 100 * (1 - 4 / 16), 100 * (1 - quantised.bytes / quantised.values / full)
    yield Figure("4 bits save of the KV, %", Q4_PERCENT, bare, "without the scales of a format")
    yield Figure("q4_0 saves of the KV, %", Q4_PERCENT, real, "with its scales: less")
    of_all = _saved(LLAMA.setting(4).bytes_per_token(CONTEXT))
    yield Figure(f"4 bits save of all bytes at {CONTEXT:,} tokens, %", None, of_all, "weights stay")
    yield Figure("accuracy at 4 bits is acceptable", None, None, "what kvbound accuracy measures")
    window = _saved(LLAMA.setting().bytes_per_token(CONTEXT, min(published.WINDOWS)))
    verdict = f"{_agrees(WINDOW_PERCENT, window, 0.01)}; the model has no window"
    yield Figure("window of 512 saves of all bytes, %", WINDOW_PERCENT, window, verdict)


def _saved(size: object) -> float:
    """Return by how many per cent fewer bytes Llama-2-7B reads and writes than in 16 bits."""
    return 100 * (1 - float(size) / float(LLAMA.setting().bytes_per_token(CONTEXT)))  # type: ignore[arg-type]


def _speeds() -> Iterator[Figure]:
    t4, a100 = catalog.gpu("t4"), catalog.gpu(A100)
    ratio = a100.bandwidth / t4.bandwidth
    verdict = _agrees(BANDWIDTH_RATIO, ratio, 1e-3)
    yield Figure("T4 to A100, bandwidth", BANDWIDTH_RATIO, ratio, verdict)
    slow, fast = published.MEASURED["t4", LLAMA.name], published.MEASURED[A100, LLAMA.name]
    middle = sum(fast) / sum(slow)
    within = fast[0] / slow[1] <= MEASURED_RATIO <= fast[1] / slow[0]
    verdict = "within the spread of its runs" if within else "outside the spread of its runs"
    yield Figure("T4 to A100, measured speed", MEASURED_RATIO, middle, verdict)
    for name, model in MODELS.items():
        speed, most = published.MEASURED[A100, name][1], most_tokens_per_s(A100, model)
        verdict = "below what the bound allows" if speed <= most else "impossible: above the bound"
        yield Figure(f"{name} measured on A100 / most possible, %", None, 100 * speed / most, verdict)
    share = 100 * fast[1] / published.MEMORY_BOUND[LLAMA.name]
    verdict = _agrees(SHARE_PERCENT, share, 0.01)
    yield Figure("share of the A100's bandwidth, Llama-2-7B, %", SHARE_PERCENT, share, verdict)


def _energy() -> Iterator[Figure]:
    setting = LLAMA.setting()
    parts = setting.joules(CONTEXT)
    for what, part in zip(("weights", "KV", "MAC"), parts, strict=True):
        share = 100 * part / sum(parts)
        yield Figure(f"energy at {CONTEXT:,} tokens, {what}, %", None, share, "by its constants")
    assert setting.joules_per_mac is not None  # the catalog states it
    operation = setting.joules_per_mac / 2
    places = {place.name: place for place in setting.tiers}
    for name in ("hbm", "dram", "far"):
        ratio = places[name].joules / operation
        verdict = "contradicted by its constants" if ratio < ENERGY_RATIO else "holds"
        yield Figure(f"over 700x: a byte from {name} / an operation", ENERGY_RATIO, ratio, verdict)


def _models() -> Iterator[Figure]:
    for name, model in MODELS.items():
        found = catalog.llm(name)
        yield Figure(f"{name}: layers", model.layers, found.layers, _agrees(model.layers, found.layers))
        size = found.kv_bytes(1)
        yield Figure(f"{name}: KV per token, bytes", model.kv_bytes, size, _agrees(model.kv_bytes, size))


def _agrees(theirs: float, ours: float, tolerance: float = 1e-8) -> str:
    return "agrees" if abs(ours - theirs) <= tolerance * abs(theirs) else "differs"
