"""Representations are short: names and sizes, no arrays."""

import pytest

import kvbound as kv
from tests.cost_cases import toy


def test_no_repr_shows_arrays() -> None:
    instance = kv.read_instance("native-r15-c25-b64-n64")
    result = kv.simulate(instance, "lru")
    assert result.schedule is not None
    bound = kv.bound(toy(), time_limit=1)
    shown = [*map(repr, (instance, instance.trace, result, result.schedule, result.schedule.events[0]))]
    shown += [repr(bound), repr(bound.certificate)]
    for text in shown:
        assert len(text) < 160
        assert "array" not in text
        assert "\n" not in text
    assert shown[0] == (
        "<Instance native-r15-c25-b64-n64: 5 layers, 128 + 64 tokens, pcie6-paper, stories260k>"
    )
    assert "lru, feasible, 0.000249" in shown[2]


def test_a_comparison_is_printed_in_full_in_readable_units() -> None:
    table = kv.compare(kv.read_instance("native-r15-c25-b64-n64"), ["lru", "belady", "ideal"])
    text = str(table)
    lines = text.splitlines()
    assert "..." not in text
    assert max(map(len, lines)) <= 100
    assert len(lines) == 2 + 3
    for words in ("time us", "share of", "moved", "up MB", "tokens", "249.3", "-"):
        assert words in text
    assert list(table["method"]) == ["belady", "lru", "ideal"]
    assert table["time_s"].iloc[1] == pytest.approx(249.344e-6, rel=1e-3)
    assert "<table" in table._repr_html_()  # type: ignore[operator]
    table["mine"] = ["one", "two", None]  # a column of the user's own
    assert "two" in str(table)
    assert table["energy_j"].isna().all()
    assert "energy" not in text
    assert type(table[["method", "time_s"]]).__name__ == "DataFrame"


def test_energies_have_columns_where_they_are_known() -> None:
    instance = kv.read_instance("b2-8b-h100-c25")
    table = kv.compare(instance, ["lru", "ideal"])
    lru = kv.simulate(instance, "lru")
    assert table["energy_j"].tolist()[0] == lru.total_energy_j
    assert table["energy_per_token_j"].tolist()[0] == lru.energy_per_token_j
    assert table["energy_j"].isna().tolist() == [False, True]
    text = str(table)
    for words in ("energy mJ", "/token uJ", "84.17"):
        assert words in text
