"""What formats of the KV cache do to a model's predictions: JSON, a table, sentences, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvbound.accuracy.cache import parse
from kvbound.accuracy.measure import TOP, Comparison, Outcome
from kvbound.accuracy.models import Trained
from kvbound.accuracy.statistics import BLOCK, LEVEL, RESAMPLES, Bootstrap, Estimate
from kvbound.report import numbers
from kvbound.report.tables import table
from kvbound.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "kvbound.accuracy/1"
_CSV = (
    "format", "bytes_per_token", "saved_share", "perplexity", "perplexity_low", "perplexity_high",
    "perplexity_change", "perplexity_change_low", "perplexity_change_high", "kl_nats", "top1_agreement",
    "topk_agreement", "attention_error", "attention_error_max", "attention_drift", "attention_drift_max",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What was run.

    Parameters
    ----------
    trained
        The model.
    text
        Name of the text.
    text_sha256
        SHA-256 of its bytes in UTF-8, in hexadecimal digits.
    segments
        Tokens of each segment, those that precede a text included.
    context
        Largest number of tokens of a segment.
    seed
        Seed of the draws behind the intervals.
    """

    trained: Trained
    text: str
    text_sha256: str
    segments: Sequence[int]
    context: int
    seed: int


def document(run: Run, found: Comparison) -> dict[str, Any]:
    """Return the JSON of a comparison."""
    count, generator = len(found.reference), np.random.default_rng(run.seed)
    draws = Bootstrap.of(count, generator)
    shape = run.trained.decoder.shape
    return {
        "schema": SCHEMA,
        "kvbound_version": __version__,
        "model": {
            "name": run.trained.name,
            "sha256": run.trained.sha256(),
            "parameters": run.trained.decoder.parameters,
            "layers": len(run.trained.decoder.layers),
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_size": shape.head_size,
        },
        "text": {"name": run.text, "sha256": run.text_sha256},
        "context": run.context,
        "segments": list(run.segments),
        "predictions": count,
        "seed": run.seed,
        "interval": {"level": LEVEL, "block": min(BLOCK, max(1, count // 8)), "draws": RESAMPLES},
        "top": TOP,
        "reference": {"format": "f32", **_estimate("perplexity", draws.perplexity(found.reference))},
        "results": [_result(run, draws, found, outcome) for outcome in found.outcomes],
    }


def _result(run: Run, draws: Bootstrap, found: Comparison, outcome: Outcome) -> dict[str, Any]:
    decoder, longest = run.trained.decoder, max(run.segments)
    layers = len(decoder.layers)
    stored = layers * outcome.setting.bytes_per_token(longest, decoder.width_kv)
    plain = layers * parse("f16").bytes_per_token(longest, decoder.width_kv)
    return {
        "format": outcome.setting.name,
        "bytes_per_token": stored,
        "saved_share": 1 - stored / plain,
        **_estimate("perplexity", draws.perplexity(outcome.losses)),
        **_estimate("perplexity_change", draws.change(outcome.losses, found.reference)),
        "kl_nats": float(outcome.divergences.mean()),
        "top1_agreement": float(outcome.same_first.mean()),
        "topk_agreement": float(outcome.shared.mean()),
        "attention_error": outcome.errors.tolist(),
        "attention_drift": outcome.drifts.tolist(),
    }


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}


def describe(known: Mapping[str, Any]) -> list[Table | str]:
    """Return a comparison as text and a table."""
    model, segments, reference = known["model"], known["segments"], known["reference"]
    low, high = reference["perplexity_interval"]
    pieces = f"{len(segments)} segments of up to" if len(segments) > 1 else "one segment of"
    heading = [
        f"{model['name']}: {model['layers']} layers, {model['kv_heads']} KV heads of {model['head_size']}; "
        f"{known['text']['name']}, {known['predictions']:,} predictions in {pieces} {max(segments):,} tokens",
        f"With a float32 cache the perplexity is {reference['perplexity']:.4g} "
        f"({100 * LEVEL:.0f} % interval {low:.4g} to {high:.4g}).",
    ]
    columns = (
        "KV cache", ">B per\ntoken", ">saved\nof f16", ">perplexity", ">change\n%",
        f">{100 * LEVEL:.0f} %\ninterval", ">KL\nnats", ">same\nfirst", f">same of\nfirst {known['top']}",
        ">attention\nerror", ">largest\nlayer",
    )  # fmt: skip
    rows = table(columns, [_cells(each) for each in known["results"]])
    return [*heading, "", rows, "", *_verdict(known["results"])]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = (f"{100 * each:+.2f}" for each in row["perplexity_change_interval"])
    worst = int(np.argmax(row["attention_error"]))
    return (
        row["format"],
        numbers.rate(row["bytes_per_token"]),
        numbers.share(row["saved_share"]),
        f"{row['perplexity']:.4g}",
        f"{100 * row['perplexity_change']:+.2f}",
        f"{low} to {high}",
        f"{row['kl_nats']:.2g}",
        numbers.share(row["top1_agreement"]),
        numbers.share(row["topk_agreement"]),
        numbers.gap(_mean(row["attention_error"])),
        f"{worst}: {numbers.gap(row['attention_error'][worst])}",
    )


def _mean(errors: Sequence[float]) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def _verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which formats raise the perplexity beyond doubt, and the smallest one that does not."""
    worse = [row for row in rows if row["perplexity_change_interval"][0] > 0]
    even = [row for row in rows if row not in worse]
    lines = []
    if even:
        best = min(even, key=lambda row: float(row["bytes_per_token"]))
        high = max(0.0, best["perplexity_change_interval"][1])
        lines.append(
            "The smallest cache whose perplexity this text does not show to be higher is "
            f"{best['format']}, which saves {numbers.share(best['saved_share'])}; "
            f"a rise above {100 * high:.2g} % is unlikely."
        )
    if worse:
        names = ", ".join(row["format"] for row in worse)
        lines.append(f"The interval lies above 0 for {names}.")
    return lines


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per result; errors of attention as root mean square over layers, and maximum."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for row in rows:
        errors, drifts = row["attention_error"], row["attention_drift"]
        writer.writerow((
            row["format"], row["bytes_per_token"], row["saved_share"],
            row["perplexity"], *row["perplexity_interval"],
            row["perplexity_change"], *row["perplexity_change_interval"],
            row["kl_nats"], row["top1_agreement"], row["topk_agreement"],
            _mean(errors), max(errors), _mean(drifts), max(drifts),
        ))  # fmt: skip
    return file.getvalue()
