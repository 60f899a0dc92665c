import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.errors import InputError, UsageError
from kvbound.trace import Trace, read_trace, write_csv, write_header, write_trace
from kvbound.trace.folder import file_hashes, read_folder
from kvbound.trace.timeline import Timeline

LISTS = [[[3, 0], [1]], [[], [0, 5]], [[6, 2], [1, 4]]]
MASS = [[[0.5, 0.1], [0.2]], [[], [0.3, 0.4]], [[0.6, 0.1], [0.3, 0.1]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a.trace"
    write_trace(Trace.from_lists(4, LISTS, mass=MASS, source="here", licence="CC0"), path)
    return path


def edit_header(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / "header.json").read_text())
    kept = {key: value for key, value in (header | changes).items() if value is not ...}
    (folder / "header.json").write_text(json.dumps(kept))


def replace(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a data file and update its hash in the header."""
    np.save(folder / name, change(np.load(folder / name)))
    write_header(folder, 2, Timeline.of(4, 3))


def test_a_trace_round_trips(folder: Path) -> None:
    trace = read_trace(folder)
    assert [[trace.listed(j, layer).tolist() for layer in range(2)] for j in range(3)] == LISTS
    for j in range(3):
        for layer in range(2):
            mass = trace.listed_mass(j, layer)
            assert mass is not None
            assert mass.tolist() == np.array(MASS[j][layer], np.float16).tolist()
    assert (trace.prefill_tokens, trace.source, trace.licence) == (4, "here", "CC0")
    assert all(isinstance(rows, np.memmap) and not rows.flags.writeable for rows in trace.rows)


def test_a_trace_that_reads_nothing(tmp_path: Path) -> None:
    write_trace(Trace.from_lists(4, [[[]], [[]]], mass=[[[]], [[]]]), tmp_path / "b.trace")
    trace = read_trace(tmp_path / "b.trace")
    assert trace.counts().tolist() == [[0], [0]]


def test_writing_over_a_trace_while_it_is_open(folder: Path) -> None:
    trace = read_trace(folder)
    write_trace(trace.head(2), folder)
    assert read_trace(folder).decode_steps == 2
    assert trace.reads(2, 0).tolist() == [2, 6]
    write_trace(trace, folder)
    assert read_trace(folder).row_hashes() == trace.row_hashes()
    assert [file.name for file in folder.parent.iterdir()] == ["a.trace"]


def test_files_are_equal_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    write_trace(read_trace(folder), tmp_path / "b.trace")
    for file in folder.iterdir():
        assert (tmp_path / "b.trace" / file.name).read_bytes() == file.read_bytes()
        if file.suffix == ".npy":  # and as numpy itself writes them
            np.save(tmp_path / "x.npy", np.load(file))
            assert (tmp_path / "x.npy").read_bytes() == file.read_bytes()


def test_only_traces_are_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("x")
    for target in ("file", "work"):
        with pytest.raises(UsageError, match="no trace folder"):
            write_trace(read_trace(folder), tmp_path / target)
    assert (tmp_path / "work" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "kvbound.trace/2"}, {"schema": ...}, {"layers": 0}, {"layers": "2"}, {"layers": 2.5},
        {"layers": True}, {"layers": 1}, {"layers": 3}, {"layers": 10**9}, {"layers": ...},
        {"prefill_tokens": -4}, {"prefill_tokens": 400}, {"prefill_tokens": 1e300}, {"prefill_tokens": None},
        {"decode_steps": 0}, {"decode_steps": 4}, {"decode_steps": 2**27}, {"decode_steps": float("nan")},
        {"source": 7}, {"licence": []}, {"sha256": ...}, {"sha256": []}, {"sha256": {}},
        {"sha256": {"layer-000.npy": 7}}, {"colour": "red"},
    ],
)  # fmt: skip
def test_wrong_headers_are_named(folder: Path, change: dict[str, Any]) -> None:
    edit_header(folder, **change)
    with pytest.raises(InputError) as error:
        read_trace(folder)
    assert error.value.file.startswith(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"schema": NaN', "[" * 100_000, "\0"])
def test_malformed_headers_are_refused(folder: Path, text: str) -> None:
    (folder / "header.json").write_text(text)
    with pytest.raises(InputError, match=r"header\.json"):
        read_trace(folder)
    (folder / "header.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"header\.json"):
        read_trace(folder)


@pytest.mark.parametrize(
    "name", ["layer-000.npy", "layer-001.npy", "order-000.npy", "offsets-000.npy", "mass-001.npy"]
)
def test_every_damage_is_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 4
    damages = [
        b"",
        whole[:5],
        whole[:100],
        whole[:-1],
        whole + b"\0",
        bytes(flipped),
        b"\x93NUMPY\x09" + whole[7:],
        whole.replace(b"}", b" ", 1),
    ]
    damages.append(whole.replace(b"'shape': (", b"'shape': (9", 1))
    damages.append(b"PK\x03\x04" + whole)
    for damage in damages:
        (folder / name).write_bytes(damage)
        with pytest.raises(InputError, match=name):
            read_trace(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_trace(folder)


def test_pickles_are_never_opened(folder: Path) -> None:
    np.save(folder / "layer-000.npy", np.array([{"a": print}], object), allow_pickle=True)
    write_header(folder, 2, Timeline.of(4, 3))
    with pytest.raises(InputError, match=r"layer-000\.npy"):
        read_trace(folder)


def bit(step: int, token: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[step, token // 8] ^= 1 << token % 8
        return rows

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer-001.npy", bit(0, 5)),  # the future, with a hash that fits
        ("layer-001.npy", bit(2, 7)),
        ("layer-001.npy", bit(2, 63)),  # padding
        ("layer-001.npy", lambda rows: rows.astype(np.int8)),
        ("layer-001.npy", lambda rows: rows.astype(float)),
        ("layer-001.npy", lambda rows: rows[:2]),
        ("layer-001.npy", lambda rows: rows[:, :7]),
        ("layer-001.npy", lambda rows: np.hstack([rows, rows])),
        ("layer-001.npy", lambda rows: rows[None]),
        ("layer-001.npy", np.asfortranarray),
        ("layer-000.npy", bit(0, 1)),  # does not agree with the order
        ("order-000.npy", lambda ids: ids[::-1].copy()),
        ("order-000.npy", lambda ids: ids[:-1]),
        ("order-000.npy", lambda ids: ids * 0),
        ("order-000.npy", lambda ids: ids - 100),
        ("order-000.npy", lambda ids: ids + 1000),
        ("order-000.npy", lambda ids: ids.astype(np.int64)),
        ("offsets-000.npy", lambda offsets: offsets[::-1].copy()),
        ("offsets-000.npy", lambda offsets: offsets - 1),
        ("offsets-000.npy", lambda offsets: offsets[:-1]),
        ("mass-000.npy", lambda mass: mass * np.float16("nan")),
        ("mass-000.npy", lambda mass: -mass),
        ("mass-000.npy", lambda mass: mass / np.float16(0)),
        ("mass-000.npy", lambda mass: mass[1:]),
        ("mass-000.npy", lambda mass: mass.astype(np.float32)),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_invalid_contents_are_refused(
    folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    replace(folder, name, change)
    with pytest.raises(InputError, match=r"order-000|" + name):
        read_trace(folder)


def test_files_of_other_layers_are_refused(folder: Path) -> None:
    np.save(folder / "mass-007.npy", np.zeros(1, np.float16))
    write_header(folder, 2, Timeline.of(4, 3))
    with pytest.raises(InputError, match="sha256"):
        read_trace(folder)
    edit_header(folder, sha256={"../secret": "x"})
    with pytest.raises(InputError, match=r"layer-000\.npy"):
        read_trace(folder)


def test_verification_can_be_left_out(folder: Path) -> None:
    (folder / "mass-000.npy").write_bytes(bytes((folder / "mass-000.npy").read_bytes()[:-1] + b"\0"))
    assert read_folder(folder, verify=False).layers == 2


def test_a_folder_without_a_header_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError):
            read_trace(path)


BATCH: dict[str, Any] = {
    "births": [2, 0, 1], "ends": [0, 2, None, None, 2], "sequence": [0, 1, 0, 1, 1], "outputs": [1, 0, 1],
}  # fmt: skip
BATCH_LISTS = [[[1, 0], [1]], [[], [3, 2]], [[1, 4], [1]]]


@pytest.fixture
def batch_folder(tmp_path: Path) -> Path:
    path = tmp_path / "b.trace"
    write_trace(Trace.from_lists(2, BATCH_LISTS, **BATCH), path)
    return path


def test_births_and_ends_round_trip(batch_folder: Path) -> None:
    trace = read_trace(batch_folder)
    assert trace.timeline.to_mapping() == BATCH
    assert [[trace.listed(j, layer).tolist() for layer in range(2)] for j in range(3)] == BATCH_LISTS


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("births", [2, 1, 1], "layer-000.npy|ends"),
        ("births", [2, 0], "births: expected a number of tokens"),
        ("ends", [0, 1, 3, 3, 2], "step 2: expected no read of token 1 after step 1, its last"),
        (
            "ends",
            [0, 2, 3, 3, 1],
            "ends: expected for token 4 a step from its birth, 2, to 2, or null, not 1",
        ),
        ("sequence", [0, 1], "sequence: expected a list of 5 integers"),
        ("outputs", [3, 0, 1], "outputs: expected at most"),
    ],
)
def test_damaged_births_and_ends_are_named(
    batch_folder: Path, name: str, values: list[int], message: str
) -> None:
    header = json.loads((batch_folder / "header.json").read_text())
    np.save(batch_folder / f"{name}.npy", np.array(values))
    header["sha256"] |= file_hashes(batch_folder, [f"{name}.npy"])
    (batch_folder / "header.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match=message):
        read_trace(batch_folder)


def test_a_batch_is_not_written_as_csv(batch_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a CSV file holds one sequence"):
        write_csv(read_trace(batch_folder), tmp_path / "b.csv")
