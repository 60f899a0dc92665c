"""Damaged files and instances give a report of one clear sentence; hashes agree with the package's."""

import ast
import copy
import io
import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import kvbound.checker
from kvbound.checker import Report, check
from kvbound.instance import Instance
from kvbound.placement import write_placement
from kvbound.schedule import Schedule
from tests.strategies import random_schedule, tiny_instance, tiny_instances


@pytest.fixture
def case() -> tuple[Instance, Schedule]:
    rng = np.random.default_rng(3)
    instance = tiny_instance(rng, granularity=1, migration="prefetch")
    assert instance.layers > 1
    return instance, random_schedule(rng, instance)


def write(case: tuple[Instance, Schedule], path: Path) -> Path:
    instance, schedule = case
    write_placement(schedule, path, instance_sha256=instance.sha256, tokens=instance.tokens)
    return path


def damaged(content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def with_pickle(path: Path) -> None:
    np.savez(path, schema=np.array({"a": 1}, dtype=object))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(bytes(content))


def array_longer_than_its_data(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.npy", header.getvalue() + b"\0" * 8)


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        damaged(b""),
        damaged(b"PK\3\4 not really"),
        damaged(b"\x93NUMPY"),
        with_pickle,
        truncated,
        flipped,
        array_longer_than_its_data,
    ],
)
def test_an_unreadable_file_is_a_problem_not_a_traceback(
    damage: Callable[[Path], None], case: tuple[Instance, Schedule], tmp_path: Path
) -> None:
    path = write(case, tmp_path / "schedule.npz")
    damage(path)
    report = check(case[0].expanded(), case[0].trace.rows, path)
    assert len(report.problems) == 1
    assert "is no readable npz file" in report.problems[0]
    assert "\n" not in report.problems[0]
    assert report.time_s is None


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF])
def test_text_beyond_unicode_is_refused(code: int, case: tuple[Instance, Schedule], tmp_path: Path) -> None:
    """NumPy raises a SystemError on such text."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<U1", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("schema.npy", header.getvalue() + code.to_bytes(4, "little"))
    report = check(case[0].expanded(), case[0].trace.rows, tmp_path / "a.npz")
    assert report.problems == ("the text 'schema' has characters that do not exist",)


def test_two_arrays_of_one_name_are_ambiguous(case: tuple[Instance, Schedule], tmp_path: Path) -> None:
    path = write(case, tmp_path / "schedule.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tier", b"")
    assert "two arrays of one name" in check(case[0].expanded(), case[0].trace.rows, path).problems[0]


def test_an_npy_file_is_refused(case: tuple[Instance, Schedule], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert (
        "is no readable npz file"
        in check(case[0].expanded(), case[0].trace.rows, tmp_path / "a.npy").problems[0]
    )


def edited(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(expanded: dict[str, Any]) -> None:
        *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        place: Any = expanded
        for key in way:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return edit


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("memory", ...),
        ("rules/copies", ...),
        ("rules/copies", "both"),
        ("rules/granularity", 0),
        ("rules/granularity", True),
        ("schema", "kvbound.instance/2"),
        ("memory/resources/bus0", 0),
        ("memory/resources/bus0", math.nan),
        ("memory/tiers/0/reads", ["nowhere"]),
        ("memory/tiers/0/capacity", -1),
        ("memory/tiers/0/latency", math.inf),
        ("memory/tiers", []),
        ("memory/tiers", 5),
        ("llm/kv_bytes_per_token_layer", 1.5),
        ("llm/weight_read_bytes_per_layer", []),
        ("llm/weight_bytes", -1),
        ("llm/weight_read_bytes_per_layer/0", -1),
        ("llm/weight_read_bytes_per_layer/1", math.inf),
        ("llm/layers", 99),
        ("trace/decode_steps", 0),
        ("trace/prefill_tokens", "many"),
        ("trace/sha256", ["0" * 64]),
        ("trace", None),
    ],
)
def test_a_malformed_instance_is_named(
    case: tuple[Instance, Schedule], path: str, value: Any, tmp_path: Path
) -> None:
    expanded = copy.deepcopy(case[0].expanded())
    edited(path, value)(expanded)
    report = check(expanded, case[0].trace.rows, write(case, tmp_path / "schedule.npz"))
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the expanded instance is malformed")


def test_rows_of_another_shape_are_named(case: tuple[Instance, Schedule], tmp_path: Path) -> None:
    instance = case[0]
    expanded = instance.expanded()
    expanded["trace"]["decode_steps"] += 1
    report = check(expanded, instance.trace.rows, write(case, tmp_path / "schedule.npz"))
    assert report.problems[0].startswith("layer 0: the trace's rows are uint8")


@given(tiny_instances() | tiny_instances(batch=True))
def test_the_hash_is_that_of_the_package(instance: Instance) -> None:
    def refuse(expanded: dict[str, Any]) -> Report:
        arrays = {"schema": "kvbound.schedule/1", "instance_sha256": "x", "initial": 0}
        return check(expanded, instance.trace.rows, arrays)

    expanded = instance.expanded("a.trace")
    assert refuse(expanded).instance_sha256 == instance.sha256
    assert refuse(expanded | {"name": "another"}).instance_sha256 == instance.sha256
    floats = json.loads(json.dumps(expanded), parse_int=float)  # whole numbers may come as floats
    for counted in ("llm", "trace", "rules"):
        floats[counted] = expanded[counted]
    assert refuse(floats).instance_sha256 == instance.sha256
    floats["llm"] = expanded["llm"] | {"weight_bytes": expanded["llm"]["weight_bytes"] + 1}
    assert refuse(floats).instance_sha256 != instance.sha256


def test_the_checker_imports_nothing_but_numpy_and_the_standard_library() -> None:
    folder = Path(kvbound.checker.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                own = name == "kvbound.checker" or name.startswith("kvbound.checker.")
                assert own or name.split(".")[0] in {"numpy", *sys.stdlib_module_names}, (path, name)
