"""Malicious inputs: refused in one sentence, quickly and with little memory."""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.instance_io import read_instance
from tests.cli.conftest import Run
from tests.cli.test_malformed import changed, refuse

VAST = 1 << 29
MEASURE = """
import json, resource, subprocess, sys
command = [sys.executable, "-m", "kvbound", *sys.argv[1:]]
ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([ran.returncode, peak / 1024, ran.stdout, ran.stderr]))
"""


def measured(*argv: object) -> tuple[int, float, str, str]:
    """Exit code, peak resident memory in MiB, stdout and stderr of a separate process."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, argv)], capture_output=True, text=True, check=True
    )
    code, peak, out, err = json.loads(ran.stdout)
    return code, peak, out, err


def zeros(size: int, shape: tuple[int, ...], descr: str) -> tuple[bytes, int]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue(), size


def bomb(path: Path, arrays: dict[str, Any]) -> Path:
    """An archive of arrays; a pair is a header and a number of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, values in arrays.items():
            with out.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(values, tuple):
                    file.write(values[0])
                    for _ in range(values[1] >> 24):
                        file.write(bytes(1 << 24))
                else:
                    np.lib.format.write_array(file, np.asarray(values))
    return path


def bombs(instance: Path) -> dict[str, dict[str, Any]]:
    """Half a gigabyte of zeros, or more, for each reader."""
    case = read_instance(instance)
    owner = {"instance_sha256": case.sha256}
    initial = np.ones((case.layers, case.prefill_tokens), np.uint8)
    words = zeros(VAST, (VAST // 8,), "<i8")
    return {
        "schema": {"schema": zeros(VAST, (), f"<U{VAST // 4}")},
        "certificate": owner | {
            "schema": "kvbound.certificate/1", "bound_s": np.float64(0), "scale": np.int64(0),
            "tier": np.int64(0), "capacity": words, "prices": words, "whole": words, "theta": words,
        },
        "schedule": owner | {
            "schema": "kvbound.schedule/1", "initial": initial, "slot": words, "item": words,
            "tier": zeros(VAST, (VAST,), "|u1"),
        },
        "residency": owner | {
            "schema": "kvbound.residency/1", "initial": initial, "after_0": zeros(VAST, (VAST,), "|u1"),
        },
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schema", "certificate", "schedule", "residency"])
def test_archives_that_would_fill_the_memory(kind: str, small: Path, tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", bombs(small)[kind])
    for argv in (
        ("check", small, path),
        ("solve", small, "--method", "exact", "--start", path),
        ("bound", small, "--resume", path),
    ):
        code, peak, out, err = measured(*argv)
        assert (code, out) == (3, "")
        assert err.startswith("kvbound: ")
        assert err.count("\n") == 1
        assert peak < 300


@pytest.mark.slow
def test_tables_that_would_fill_the_memory(tmp_path: Path) -> None:
    line, rows, far = tmp_path / "line.csv.gz", tmp_path / "rows.csv.gz", tmp_path / "far.csv"
    with gzip.open(line, "wb") as file:
        file.write(b'n,l,read_kv\n4,0,"[0')
        for _ in range(VAST >> 24):
            file.write(b",1" * (1 << 23))
    with gzip.open(rows, "wb") as file:
        file.write(b"n,l,read_kv\n")
        for _ in range(16):
            file.write(b"4,0,[]\n" * (1 << 20))
    far.write_text("n,l,read_kv\n" + "".join(f"{10**8 + n},0,[]\n" for n in range(300)))
    for path in (line, rows, far):
        for argv in (("trace", "info", path), ("trace", "import", path, "-o", tmp_path / "out.trace")):
            code, peak, _, err = measured(*argv)
            assert (code, err.count("\n")) == (3, 1)
            assert path.name in err
            assert peak < 300
    assert not (tmp_path / "out.trace").exists()


SMALL_BUT_VAST = {
    "a long prompt": changed(trace={"reads": [[[], []]] * 300, "prefill_tokens": 1 << 26}),
    "a prompt too long for its layers": changed(trace={"reads": [[[], []]], "prefill_tokens": 1 << 25}),
    "many layers": changed(
        trace={"reads": [[[]] * 4096] * 4, "prefill_tokens": 30_000},
        llm__layers=4096, llm__weight_read_bytes_per_layer=1,
    ),
    "steps without number": changed(
        trace={"synthetic": {"kind": "random-swap", "layers": 2, "prefill_tokens": 4, "decode_steps": 10**8}}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL_BUT_VAST)
def test_small_files_of_vast_instances(case: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(SMALL_BUT_VAST[case])
    code, peak, _, err = measured("solve", tmp_path / "a.json", "--method", "lru")
    assert (code, err.count("\n")) == (3, 1)
    assert peak < 300


@pytest.mark.slow
@pytest.mark.parametrize("size", [2**20, 2**20 - 1])
def test_blocks_larger_than_the_trace_take_no_memory(size: int, tmp_path: Path) -> None:
    document = json.loads(
        changed(
            trace={"reads": [[[0, 1]] * 40] * 8, "prefill_tokens": 4}, rules__granularity=size,
            rules__migration="prefetch", llm__layers=40, llm__weight_read_bytes_per_layer=1,
            memory__tiers__0__capacity=size * 10**6,
        )
    )  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(document))
    for method in ("belady", "dual", "pricing"):
        code, peak, _, err = measured(
            "solve",
            tmp_path / "a.json",
            "--method",
            method,
            "--time-limit",
            "1",
            "--out",
            tmp_path / "out",
            "-q",
        )
        assert (code, err) == (0, "")
        assert peak < 300
        code, peak, out, _ = measured("check", tmp_path / "a.json", tmp_path / "out")
        assert code == 0
        assert "accepted" in out
        assert peak < 150


def test_units_are_read_in_linear_time(run: Run, tmp_path: Path) -> None:
    """Regression: the time for long digit strings grew with the square of their length, or worse."""
    for text in ("1" * 100_000, "1" * 1600 + " x y", "1" * 1600 + "." + "1" * 1600 + "e", " " * 10**5 + "1"):
        (tmp_path / "a.json").write_text(changed(memory__tiers__0__capacity=text))
        err = refuse(run, tmp_path, 3, "solve", tmp_path / "a.json")
        assert len(err) < 400


LONG = "9" * 400
PARTS = ("compare", "--memory", "gh200-144", "--llm", "gpt2", "--trace", "x")
NUMBERS = [
    "memory__tiers__0__capacity", "memory__tiers__0__latency", "memory__resources__hbm", "llm__layers",
    "llm__kv_bytes_per_token_layer", "llm__weight_bytes", "llm__weight_read_bytes_per_layer",
    "rules__granularity", "trace__prefill_tokens",
]  # fmt: skip


@pytest.mark.parametrize("number", [LONG, f"{LONG}.5", "1e999999999", f'"{LONG}"', f'"{LONG}GB"', "9" * 5000])
@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_of_many_digits(field: str, number: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(changed(**{field: "NUMBER"}).replace('"NUMBER"', number))
    assert len(refuse(run, tmp_path, 3, "solve", tmp_path / "a.json")) < 400


@pytest.mark.parametrize(
    "argv",
    [
        ("solve", "INSTANCE", "--time-limit", LONG),
        ("solve", "INSTANCE", "--method", "exact", "--gap", LONG),
        ("solve", "INSTANCE", "--seed", "9" * 5000),
        ("simulate", "INSTANCE", "--policy", "page", "--set", f"size={LONG}"),
        ("simulate", "INSTANCE", "--policy", "page", "--set", f"size={'9' * 5000}"),
        ("simulate", "INSTANCE", "--policy", "sa-guided", "--set", f"window={'9' * 5000}"),
        (*PARTS, "--rule", f"granularity={LONG}"),
        (*PARTS, "--rule", f"granularity={'9' * 5000}"),
        (*PARTS, "--capacity", LONG),
        ("trace", "synth", "--layers", LONG, "--prefill", "1", "--steps", "1", "-o", "x.trace"),
    ],
)  # fmt: skip
def test_very_long_options(argv: tuple[str, ...], run: Run, small: Path, tmp_path: Path) -> None:
    argv = tuple(str(small) if arg == "INSTANCE" else arg for arg in argv)
    assert len(refuse(run, tmp_path, 2, *argv)) < 400


NAMES = {
    "half a surrogate pair": changed(name="x\ud800"),
    "a terminal's command": changed(name="x\x1b[2J"),
    "two lines": changed(name="a\nb"),
    "a long one": changed(name="x" * 201),
    "of a tier": changed(memory__tiers__0__name="\ud800"),
    "of a resource": changed(memory__resources={"hbm": 1, "slow": 1, "\x1b": 1}),
    "of a field": changed(**{"x\x1b[31m": 1}),
    "of a field, long": changed(**{"x" * 100_000: 1}),
    "of a path": changed(trace={"path": "a\0b"}),
    "of an overridden field": changed(overrides={"memory.\ud800": 1}),
    "many resources": changed(memory__resources={f"r{n}": 1 for n in range(1000)}),
    "nested config": changed(llm__config="X").replace('"X"', '{"a":' * 300 + "1" + "}" * 300),
    "nested unknown field": changed(extra="X").replace('"X"', "[" * 99 + "]" * 99),
}


@pytest.mark.parametrize("case", NAMES)
def test_names(case: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(NAMES[case])
    err = refuse(run, tmp_path, 3, "instance", "info", tmp_path / "a.json")
    assert err.removesuffix("\n").isprintable()
    assert len(err) < 600


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_special_files_are_refused(kind: str, run: Run, small: Path, tmp_path: Path) -> None:
    """Regression: each of these blocked for ever."""
    path = tmp_path / "odd"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    (tmp_path / "a.json").write_text(changed(trace={"path": "odd"}))
    folder = tmp_path / "odd.trace"
    folder.mkdir()
    os.mkfifo(folder / "header.json")
    for argv in (
        ("solve", path),
        ("solve", tmp_path / "a.json"),
        ("solve", small, "--method", "exact", "--start", path),
        ("bound", small, "--resume", path),
        ("check", small, path),
        ("trace", "info", path),
        ("trace", "info", folder),
        ("trace", "import", path, "-o", tmp_path / "x.trace"),
        ("compare", "--memory", "gh200-144", "--llm", "gpt2", "--trace", path),
        ("catalog", "llm", "--from-config", path),
    ):
        ran = run(*argv)
        assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
