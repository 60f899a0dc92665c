import csv
from typing import Any

import pytest
from rich.console import Console

from kvbound.identity import InstanceId
from kvbound.report.comparison import compare_table, csv_text, document, reference, verdict
from kvbound.report.result import describe
from kvbound.result import Bound, BoundStatus, Measures, Result, Status, ranked

CASE = InstanceId("case", "0" * 64, 2, 4, 10, 14, 14, 10, 100)


def measures(time_s: float) -> Measures:
    spread = dict.fromkeys(("mean", "p50", "p95", "p99", "max"), time_s / 10)
    return Measures(
        time_s, spread, {"hbm": 0.6, "dram": 0.4}, 0.7, {"up": 5000, "down": 0}, {"hbm": 9, "dram": 9}
    )


def schedule(method: str, time_s: float, **more: Any) -> Result:
    return Result(CASE, method, Status.FEASIBLE, measures=measures(time_s), **more)


def bound(method: str, time_s: float) -> Result:
    return Result(CASE, method, Status.UNKNOWN, bound=Bound(time_s, BoundStatus.CLAIMED, method))


def text(*results: Result, options: tuple[str, ...] = ()) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(compare_table(results, options=options))
    return captured.get()


RESULTS = [schedule("lru", 0.02), bound("ideal", 0.008), schedule("static", 0.05), bound("relax", 0.01)]


def test_fastest_first_then_the_strongest_bound() -> None:
    assert [result.method for result in ranked(RESULTS)] == ["lru", "static", "relax", "ideal"]


def test_times_are_relative_to_the_strongest_bound() -> None:
    assert reference(RESULTS) == ("bound", 0.01)
    table = text(*RESULTS)
    for words in ("2.000", "5.000", ">= 10", ">= 8", "60.0", "bound"):
        assert words in table


def test_the_verdict_names_bound_and_gaps() -> None:
    said = verdict(RESULTS)
    assert "No schedule takes less than 10 ms (relax, claimed) or makes more than 1,000 tokens/s." in said
    assert said.endswith("lru takes 2.000x that time lower bound; the largest gap is static's, 5.000x.")


def test_the_busiest_resource_of_the_fastest_is_named() -> None:
    results = [schedule("lru", 0.02), bound("relax", 0.01)]
    busy = {"hbm": 0.4, "link": 0.97}
    object.__setattr__(results[0].measures, "utilisation", busy)
    assert "lru takes 2.000x that time lower bound, with link busy 97.0 % of the time." in verdict(results)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(describe(results[0]))
    assert "hbm 40.0 %, link 97.0 %" in captured.get()


def described(result: Result) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(describe(result))
    return captured.get()


ENERGY = {"weights": 0.0080, "kv": 0.0015, "moves": 0.0005, "compute": None}


def test_energies_are_shown_in_all_per_token_and_by_shares() -> None:
    result = schedule("lru", 0.02)
    assert "energy" not in described(result)
    object.__setattr__(result.measures, "energy_j", ENERGY)
    line = next(line for line in described(result).splitlines() if line.startswith("energy"))
    shares = "weights 80.0 %, KV 15.0 %, moves 5.0 %"
    assert (
        line.split(maxsplit=1)[1].strip() == f"10 mJ, 1 mJ per token: {shares} (device level, mid estimates)"
    )
    object.__setattr__(result.measures, "energy_j", ENERGY | {"compute": 0.005, "static": 0.005})
    assert "20 mJ, 2 mJ per token: weights 40.0 %" in described(result)
    assert "moves 2.5 %, arithmetic 25.0 %, static power 25.0 %" in described(result)


def test_energies_of_nothing() -> None:
    result = schedule("lru", 0.0)
    object.__setattr__(result.measures, "energy_j", dict.fromkeys(ENERGY, 0.0))
    assert "energy" in described(result)
    assert "0 J, 0 J per token: weights 0.0 %" in described(result)


def test_energies_have_columns_in_the_csv_where_any_is_known() -> None:
    plain = csv_text(document(RESULTS)["results"])
    assert "_j" not in plain.splitlines()[0]
    result = schedule("lru", 0.02)
    object.__setattr__(result.measures, "energy_j", ENERGY)
    rows = list(csv.DictReader(csv_text(document([result, *RESULTS])["results"]).splitlines()))
    names = ("weights_j", "kv_j", "moves_j", "compute_j", "static_j", "energy_per_token_j")
    assert [rows[0][name] for name in names] == ["0.008", "0.0015", "0.0005", "", "", "0.001"]
    assert {rows[1][name] for name in names} == {""}


def test_the_verdict_on_schedules_of_equal_time() -> None:
    results = [schedule("lru", 0.01), schedule("static", 0.010000001), bound("relax", 0.01)]
    assert verdict(results).endswith("lru takes 1.000x that time lower bound; so does every other schedule.")


def test_bounds_come_last() -> None:
    nothing = Result(CASE, "exact", Status.UNKNOWN)
    study = Result(CASE, "best", Status.UNKNOWN, measures=measures(0.001))
    order = [each.method for each in ranked([bound("relax", 0.01), nothing, study, *RESULTS])]
    assert order[:3] == ["lru", "static", "exact"]
    assert set(order[3:]) == {"relax", "ideal", "best"}


def test_best_is_called_ideal() -> None:
    best = Result(CASE, "best", Status.UNKNOWN, bound=Bound(0.01, BoundStatus.CLAIMED, "ideal"))
    assert "ideal" in text(schedule("lru", 0.02), best)
    assert best.to_json()["method"] == "best"


def test_the_share_of_the_bound_has_a_column_where_there_is_a_bound() -> None:
    (lru,) = (schedule("lru", 0.02, bound=Bound(0.01, BoundStatus.CLAIMED, "relax")),)
    assert lru.share_of_bound == 0.5
    assert " 50.0 " in text(lru)
    assert "% of" not in text(schedule("lru", 0.02))


def test_without_a_bound_times_are_relative_to_the_fastest() -> None:
    results = [schedule("lru", 0.02), schedule("static", 0.05)]
    assert reference(results) == ("fastest", 0.02)
    assert (
        verdict(results)
        == "No method gave a bound. The fastest is lru; the slowest, static, takes 2.500x its time."
    )
    assert verdict(results[:1]) == "No method gave a bound. The fastest is lru."


def test_nothing_to_compare() -> None:
    assert reference([]) is None
    assert verdict([]) == verdict([bound("relax", 0.01)]) == "No method found a schedule."
    infeasible = Result(CASE, "lru", Status.INFEASIBLE)
    assert "infeasible" in text(infeasible)
    assert verdict([infeasible]) == "No method found a schedule."


def test_swept_options_have_columns() -> None:
    swept = [schedule("page", 0.02, options={"size": size}) for size in (4, 16)]
    table = text(*swept, options=("size",))
    assert "size" in table
    assert " 16 " in table


def test_csv_and_json_agree() -> None:
    rows = list(csv.DictReader(csv_text(document(RESULTS)["results"]).splitlines()))
    for row, result in zip(rows, document(RESULTS)["results"], strict=True):
        assert row["method"] == result["method"]
        assert row["time_s"] == ("" if result["time_s"] is None else repr(result["time_s"]))
    assert rows[0]["hit_rate"] == "0.6"
    assert rows[1]["bound_s"] == "0.008"


@pytest.mark.parametrize("time_s", [1e-9, 1.0, 1e6])
def test_times_of_any_scale(time_s: float) -> None:
    table = text(schedule("recency-window", time_s), bound("relax", time_s / 2))
    assert max(map(len, map(str.rstrip, table.splitlines()))) <= 80
