from __future__ import annotations

from pathlib import Path

from kvbound import library
from kvbound.instance_io import read_instance
from kvbound.library import BestKnown, best_known, entries, write_best_known


def test_entries_are_listed_without_opening_traces() -> None:
    by_name = {entry.name: entry for entry in entries()}
    for name in ("tiny-blocks", "swap-2x48-c30-b64", "native-r15-c25-b64", "paper-low"):
        entry, instance = by_name[name], read_instance(name)
        assert (entry.layers, entry.prefill_tokens, entry.decode_steps, entry.accounting) == (
            instance.layers,
            instance.prefill_tokens,
            instance.decode_steps,
            str(instance.rules.accounting),
        )


def test_the_table_of_best_known_values_comes_back_digit_for_digit(tmp_path: Path) -> None:
    rows = [
        BestKnown("b", "two", 0.1 + 0.2, 1 / 3, "optimal", "exact", "dual", "kvbound solve two, or so"),
        BestKnown("a", "one", 1e-300, None, "unknown", "best", "", 'with "quotes"'),
    ]
    path = tmp_path / "best.csv"
    write_best_known(rows, path)
    assert list(best_known(path).values()) == [rows[1], rows[0]]


def test_the_shipped_table_is_what_would_be_written(tmp_path: Path) -> None:
    path = tmp_path / "best.csv"
    write_best_known(best_known().values(), path)
    assert path.read_bytes() == library.BEST_KNOWN.read_bytes()
