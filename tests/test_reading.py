"""Untrusted files: any contents give one sentence, at once and with little memory."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from kvbound.errors import InputError
from kvbound.reading import open_file, open_npz, read_bytes, read_json
from kvbound.units import Written


def member(values: Any) -> bytes:
    out = io.BytesIO()
    npy.write_array(out, np.asarray(values))
    return out.getvalue()


def header(shape: tuple[int, ...], descr: str = "<i8") -> bytes:
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def archive(path: Path, content: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as out:
        for name, data in content.items():
            out.writestr(f"{name}.npy", data)
    return path


@given(
    dtype=st.sampled_from(["<i8", "|u1", "<f4", "<f8"]),
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    by_column=st.booleans(),
    packed=st.booleans(),
)
def test_arrays_round_trip(
    dtype: str,
    shape: tuple[int, ...],
    by_column: bool,
    packed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    if by_column:
        values = values.copy(order="F")
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, a=values, text=np.array("words"))
    with open_npz(path, "arrays") as file:
        assert set(file.names) == {"a", "text"}
        assert np.array_equal(file.array("a", dtype, *shape), values)
        assert np.array_equal(file.array("a", dtype, *(-1,) * len(shape)), values)
        assert file.text("text") == "words"
        assert file.text("a") == file.text("nothing") == ""


def repeated(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("a", member([2]))


BOMB = bytes(1 << 24)
DAMAGED: dict[str, Callable[[Path], object]] = {
    "claims more than it holds": lambda path: archive(path, {"a": header((10**15,)) + b"\0" * 8}),
    "holds more than it claims": lambda path: archive(path, {"a": header((1,)) + BOMB}),
    "a negative shape": lambda path: archive(path, {"a": header((-1,)) + b"\0" * 8}),
    "a header without an end": lambda path: archive(
        path, {"a": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + BOMB}
    ),
    "unpacks at one go": lambda path: archive(path, {"a": header((1 << 21,)) + BOMB}, zipfile.ZIP_BZIP2),
    "a pickle": lambda path: np.savez(path, a=np.array({"a": 1}, dtype=object)),
    "no array": lambda path: archive(path, {"a": b"nothing like it"}),
    "no archive": lambda path: path.write_bytes(b"PK\3\4 not really"),
    "empty": lambda path: path.write_bytes(b""),
    "one name twice": lambda path: repeated(archive(path, {"a": member([1])})),
    "cut off": lambda path: path.write_bytes(archive(path, {"a": member(np.arange(100))}).read_bytes()[:-40]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_archives(case: str, tmp_path: Path) -> None:
    DAMAGED[case](tmp_path / "a.npz")
    with (
        pytest.raises(InputError, match=r"a\.npz: expected arrays \(\.npz\), but it is damaged"),
        open_npz(tmp_path / "a.npz", "arrays") as file,
    ):
        file.array("a", "<i8", -1)


@pytest.mark.parametrize("order", "<>")
def test_text_beyond_unicode_is_refused(order: str, tmp_path: Path) -> None:
    """NumPy raises a SystemError on such text."""
    for code, known in ((0x10FFFF, True), (0x110000, False), (0xFFFFFFFF, False)):
        word = header((), f"{order}U1") + struct.pack(f"{order}I", code)
        path = archive(tmp_path / "a.npz", {"text": word})
        if known:
            with open_npz(path, "arrays") as file:
                assert file.text("text") == chr(code)
        else:
            with pytest.raises(InputError, match="damaged"), open_npz(path, "arrays") as file:
                file.text("text")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", {"a": member(np.arange(1000))}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"), open_npz(path, "arrays") as file:
        file.array("a", "<i8", 1000)


@pytest.mark.parametrize(
    ("dtype", "shape", "most", "expected"),
    [
        ("<i8", (2, 3), None, "int64 of shape"),
        ("<i8", (-1, 7), None, "any, 7"),
        ("<f8", (1 << 21,), None, "float64"),
        ("<i8", (-1,), 100, "at most 100 elements"),
    ],
)
def test_other_arrays_are_refused_before_unpacking(
    dtype: str, shape: tuple[int, ...], most: int | None, expected: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = archive(tmp_path / "a.npz", {"a": header((1 << 21,)) + BOMB})
    monkeypatch.setattr("kvbound.reading._Member.read", lambda self: pytest.fail("unpacked"))
    with pytest.raises(InputError, match=expected), open_npz(path, "arrays") as file:
        file.array("a", dtype, *shape, most=most)


def test_recordings_that_compress_too_well_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbound.reading._FEWEST", 1 << 20)
    path = archive(tmp_path / "a.npz", {"a": header((1 << 22,), "<f4") + BOMB, "b": member(np.ones(9))})
    with open_npz(path, "a recording") as file:
        assert file.numbers("b", "f").size == 9
        with pytest.raises(InputError, match="found 16,777,216 bytes packed into"):
            file.numbers("a", "f")
        with pytest.raises(InputError, match="kind 'i'"):
            file.numbers("b", "i")


@pytest.mark.parametrize("read", [open_file, read_bytes, read_json, lambda p: open_npz(p, "x").__enter__()])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing", "no name"])
def test_only_regular_files_are_read(read: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    """Reading from a pipe would block for ever, and /dev/zero never ends."""
    path = tmp_path / ("a\0b" if kind == "no name" else "a")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1000)
    assert len(read_bytes(tmp_path / "a", most=1000)) == 1000
    with pytest.raises(InputError, match="at most 999 bytes"):
        read_bytes(tmp_path / "a", most=999)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[" * 100_000, "nested"),
        ("[" * 500 + "]" * 500, "nested"),
        ('{"a":' * 400 + "1" + "}" * 400, "nested"),
        ("[" + "9" * 5000 + "]", "digits"),
        ("[NaN]", "finite"),
        ('{"a": 1, "a": 2}', "once"),
        ('{"\\u001b[2J": 1, "\\u001b[2J": 2}', r"\\x1b\[2J"),
        ("[1,", "JSON"),
        (json.dumps(["[{"] * 200)[:-1], "JSON"),
    ],
)
def test_invalid_json_is_refused(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=found) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).isprintable()


def test_json_is_read(tmp_path: Path) -> None:
    deep = json.loads("[" * 100 + "]" * 100)
    values: list[Any] = [['[{\\"' * 300], [[]] * 1000, deep, {"a": [{"b": "}"}] * 200}]
    for value in values:
        (tmp_path / "a.json").write_text(json.dumps(value))
        assert read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").write_text("[0.10, 1e400]")
    tenth, beyond = read_json(tmp_path / "a.json")
    assert isinstance(tenth, Written)
    assert (tenth, tenth.text) == (0.1, "0.10")
    assert beyond == float("inf")
