import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import InputError, UsageError
from kvbound.trace import Trace, import_csv, read_csv, read_trace, write_csv

HEADER = "n,l,read_kv\n"
GOOD = HEADER + '4,0,"[3,0]"\n4,1,[1]\n5,0,[]\n5,1,"[0,5]"\n'


def lists(trace: Trace) -> list[list[list[int]]]:
    return [
        [trace.listed(step, layer).tolist() for layer in range(trace.layers)]
        for step in range(trace.decode_steps)
    ]


def some_trace(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    prefill, steps, layers = rng.integers(0, 90), rng.integers(1, 7), rng.integers(1, 4)
    shape = [[rng.integers(0, prefill + step + 2) for _ in range(layers)] for step in range(steps)]
    reads = [[rng.permutation(prefill + step + 1)[:size] for size in row] for step, row in enumerate(shape)]
    return Trace.from_lists(int(prefill), reads)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_round_trips_byte_for_byte(tmp_path: Path, name: str) -> None:
    for seed in range(20):
        trace, path, again = some_trace(seed), tmp_path / name, tmp_path / f"again-{name}"
        write_csv(trace, path)
        read = read_trace(path)
        assert (read.prefill_tokens, lists(read)) == (trace.prefill_tokens, lists(trace))
        write_csv(read, again)
        assert again.read_bytes() == path.read_bytes()


@given(st.permutations(GOOD.removeprefix(HEADER).splitlines()))
@settings(max_examples=24)
def test_rows_may_come_in_any_order(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(HEADER + "\n".join(rows))
    trace = read_csv(path, source="here", licence="CC0")
    assert (trace.prefill_tokens, trace.source, trace.licence) == (4, "here", "CC0")
    assert lists(trace) == [[[3, 0], [1]], [[], [0, 5]]]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace("n,l,read_kv", '"n","l","read_kv"'),
        GOOD.replace("[3,0]", "[3, 0]"),
        GOOD.replace("[3,0]", " [ 3 ,  0 ] "),
        GOOD.replace("4,0,", '"4","0",'),
        GOOD + "\n\n",
    ],
)
def test_variants_of_the_format_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, newline="")
    assert lists(read_csv(tmp_path / "a.csv")) == [[[3, 0], [1]], [[], [0, 5]]]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "line 1"),
        ("n,l\n4,0\n", "line 1"),
        ("4,0,[1]\n", "line 1"),
        (HEADER + '4,0,"[0, 1]', "line 2"),  # cut off
        (HEADER + '4,0,[0]"', "line 2"),
        (HEADER, ""),
        (HEADER + "4,0\n", "line 2"),
        (HEADER + "4,0,1\n", "line 2"),
        (HEADER + "4,0,[1\n", "line 2"),
        (HEADER + "4,0,[\n", "line 2"),
        (HEADER + "-4,0,[1]\n", "line 2"),
        (HEADER + "4.0,0,[1]\n", "line 2"),
        (HEADER + "nan,0,[1]\n", "line 2"),
        (HEADER + "4,x,[1]\n", "line 2"),
        (HEADER + "999999999999999999999,0,[1]\n", "line 2"),
        (HEADER + "999999999,0,[1]\n", "line 2"),
        (HEADER + "4,99999,[1]\n", "line 2"),
        (HEADER + "4,0,[x]\n", "line 2"),
        (HEADER + "4,0,[1.5]\n", "line 2"),
        (HEADER + "4,0,[-1]\n", "line 2"),
        (HEADER + "4,0,[NaN]\n", "line 2"),
        (HEADER + "4,0,[true]\n", "line 2"),
        (HEADER + '4,0,"[1,]"\n', "line 2"),
        (HEADER + '4,0,"[,1]"\n', "line 2"),
        (HEADER + '4,0,"[1,,2]"\n', "line 2"),
        (HEADER + '4,0,"[1 2,3]"\n', "line 2"),
        (HEADER + '4,0,"[[1,2]]"\n', "line 2"),
        (HEADER + '4,0,"[1,1]"\n', "line 2"),
        (HEADER + "4,0,[5]\n", "line 2"),  # the future
        (HEADER + "4,0,[99999999999999999999999]\n", "line 2"),
        (HEADER + "4,0,[1]\n\n5,0,[6]\n", "line 4"),
        (HEADER + "4,0,[1]\n4,0,[1]\n", "n=4, l=0"),  # doubled
        (GOOD + "5,0,[1]\n", "n=5, l=0"),
        (GOOD.replace("4,1,[1]\n", ""), "n=4, l=1"),  # missing
        (GOOD.replace('5,1,"[0,5]"\n', ""), "n=5, l=1"),
        (GOOD + "7,0,[1]\n7,1,[1]\n", "n=6, l=0"),
        (HEADER + "4,1,[1]\n", "n=4, l=0"),
    ],
)
def test_errors_name_the_line_or_the_slot(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_csv(path)
    assert (error.value.file, error.value.field) == (str(path), field)
    with pytest.raises(InputError):
        import_csv(path, tmp_path / "a.trace")
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD.encode() * 50)
    for name, content in {
        "cut": packed[:-9],
        "flip": packed[:40] + b"\0\0\0" + packed[43:],
        "raw": b"\x1f\x8bxx",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_csv(tmp_path / name)
    for read in (read_csv, read_trace):
        with pytest.raises(InputError, match=r"nowhere\.csv"):
            read(tmp_path / "nowhere.csv")


def test_import_gives_the_same_trace_as_read_csv(tmp_path: Path) -> None:
    for seed in range(10):
        write_csv(some_trace(seed), tmp_path / "a.csv")
        read = read_csv(tmp_path / "a.csv", source="s", licence="l")
        import_csv(tmp_path / "a.csv", tmp_path / "a.trace", source="s", licence="l")
        opened = read_trace(tmp_path / "a.trace")  # verifies hashes and contents
        assert (lists(opened), opened.row_hashes()) == (lists(read), read.row_hashes())
        assert (opened.source, opened.licence) == ("s", "l")


def test_import_replaces_traces_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="no trace folder"):
        import_csv(tmp_path / "a.csv", tmp_path / "work")
    assert (tmp_path / "work" / "thesis.tex").read_text() == "precious"


def test_progress_is_reported(tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    (tmp_path / "a.csv").write_text(GOOD)
    trace = read_csv(tmp_path / "a.csv", progress=lambda done, total, note: told.append((done, total)))
    write_csv(trace, tmp_path / "b.csv", progress=lambda done, total, note: told.append((done, total)))
    assert told == [(0, 4), (1, 2), (2, 2)]
