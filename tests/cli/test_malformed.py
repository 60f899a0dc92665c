"""Malformed inputs: an exit code, one sentence on stderr, nothing on stdout, nothing written."""

import copy
import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.placement import write_placement
from kvbound.schedule import Schedule, from_tiers
from kvbound.trace import Trace, write_header, write_trace
from kvbound.trace.timeline import Timeline
from tests.cli.conftest import READS, Run, contents, document

TIERS = document()["memory"]["tiers"]


def changed(**fields: Any) -> str:
    """The instance with fields changed; __ separates the parts of a path, and digits index lists."""
    content = copy.deepcopy(document())
    for name, value in fields.items():
        at: Any = content
        *path, last = [int(key) if key.isdigit() else key for key in name.split("__")]
        for key in path:
            at = at[key]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return json.dumps(content)


def reads(**slots: Any) -> str:
    """The instance with single lists of reads changed: r00=... for step 0, layer 0."""
    lists: Any = copy.deepcopy(READS)
    for name, value in slots.items():
        lists[int(name[1])][int(name[2])] = value
    return changed(trace__reads=lists)


SYNTHETIC = {"kind": "random-swap", "layers": 2, "prefill_tokens": 4, "decode_steps": 4}

INSTANCES: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "{schema: 1}",
    "cut off": changed()[:200],
    "a list": "[]",
    "a number": "1",
    "NaN": changed(llm__weight_bytes=float("nan")),
    "infinity": changed(llm__weight_bytes=float("inf")),
    "a field twice": '{"name": "a", ' + changed()[1:],
    "not UTF-8": changed().encode() + b"\xff",
    "nested too deep": "[" * 100_000,
    "no schema": changed(schema=...),
    "another schema": changed(schema="kvbound.instance/2"),
    "no name": changed(name=...),
    "an empty name": changed(name=""),
    "an unknown field": changed(extra=1),
    "no memory": changed(memory=...),
    "unknown memory": changed(memory="gh200-145"),
    "memory is a number": changed(memory=3),
    "one tier": changed(memory__tiers=TIERS[:1]),
    "first tier unlimited": changed(memory__tiers__0__capacity=None),
    "no capacity": changed(memory__tiers__0__capacity=...),
    "negative capacity": changed(memory__tiers__0__capacity=-1),
    "absurd capacity": changed(memory__tiers__0__capacity=1e30),
    "a size without B": changed(memory__tiers__0__capacity="24G"),
    "a share above 100 %": changed(memory__tiers__0__capacity="130%"),
    "no such resource": changed(memory__tiers__0__reads=["hbm2"]),
    "a resource twice": changed(memory__tiers__0__reads=["hbm", "hbm"]),
    "no resource": changed(memory__tiers__0__reads=[]),
    "tiers of one name": changed(memory__tiers__1__name="hbm"),
    "bandwidth 0": changed(memory__resources__hbm=0),
    "bandwidth in bits": changed(memory__resources__hbm="4900Gb/s"),
    "negative latency": changed(memory__tiers__0__latency="-1us"),
    "unknown llm": changed(llm="llama-9"),
    "no layers": changed(llm__layers=0),
    "half a layer": changed(llm__layers=1.5),
    "layers are true": changed(llm__layers=True),
    "other layers than the trace": changed(llm__layers=3, llm__weight_read_bytes_per_layer=1),
    "too few weights": changed(llm__weight_read_bytes_per_layer=[1]),
    "KV of no bytes": changed(llm__kv_bytes_per_token_layer=0),
    "KV of half a byte": changed(llm__kv_bytes_per_token_layer=0.5),
    "unknown rule": changed(rules__copy="inclusive"),
    "unknown word in rules": changed(rules__copies="both"),
    "granularity 0": changed(rules__granularity=0),
    "overrides a path that is not there": changed(overrides={"memory.tiers.ddr.capacity": 1}),
    "overrides are a list": changed(overrides=[]),
    "no trace": changed(trace=...),
    "a trace of nothing": changed(trace={}),
    "a trace that is not there": changed(trace={"path": "nowhere.trace"}),
    "both reads and a path": changed(trace__path="x.trace"),
    "no steps": changed(trace__reads=[]),
    "reads of the future": reads(r00=[0, 5]),
    "negative id": reads(r10=[-1]),
    "an id twice": reads(r10=[2, 2]),
    "an id that is text": reads(r10=["2"]),
    "an id that is half": reads(r10=[0.5]),
    "an absurd id": reads(r10=[2**70]),
    "a layer missing": changed(trace__reads=[[[0], [1]], [[0]]]),
    "negative prompt": changed(trace__prefill_tokens=-1),
    "absurd prompt": changed(trace__prefill_tokens=10**15),
    "unknown synthetic kind": changed(trace={"synthetic": SYNTHETIC | {"kind": "random"}}),
    "synthetic sparsity above 1": changed(trace={"synthetic": SYNTHETIC | {"sparsity": 2}}),
    "synthetic without steps": changed(trace={"synthetic": SYNTHETIC | {"decode_steps": 0}}),
    "synthetic with an unknown field": changed(trace={"synthetic": SYNTHETIC | {"steps": 9}}),
}


def refuse(run: Run, folder: Path, code: int, *argv: object) -> str:
    """Run a command and return its one sentence."""
    before = contents(folder)
    ran = run(*argv)
    assert (ran.code, ran.out) == (code, "")
    assert contents(folder) == before
    assert ran.err.startswith("kvbound: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    return ran.err


@pytest.mark.parametrize("case", INSTANCES)
def test_instances(case: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    content = INSTANCES[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refuse(run, tmp_path, 3, "solve", path, "--method", "lru", "--out", tmp_path / "out")
    assert "bad.json" in said or "nowhere.trace" in said


def test_a_missing_instance(run: Run, tmp_path: Path) -> None:
    assert "instance list" in refuse(run, tmp_path, 3, "solve", tmp_path / "none.json")
    refuse(run, tmp_path, 3, "solve", tmp_path)


TABLES: dict[str, str] = {
    "empty": "",
    "only a header": "n,l,read_kv\n",
    "another header": "n,layer,reads\n4,0,[0]\n",
    "a row missing": 'n,l,read_kv\n4,0,"[0,1]"\n5,0,[0]\n5,1,[0]\n',
    "a row doubled": "n,l,read_kv\n4,0,[0]\n4,0,[1]\n",
    "a step missing": "n,l,read_kv\n4,0,[0]\n6,0,[1]\n",
    "reads of the future": "n,l,read_kv\n4,0,[5]\n",
    "an id twice": 'n,l,read_kv\n4,0,"[1,1]"\n',
    "a negative id": "n,l,read_kv\n4,0,[-1]\n",
    "no list": "n,l,read_kv\n4,0,3\n",
    "a list of text": "n,l,read_kv\n4,0,[a]\n",
    "a negative step": "n,l,read_kv\n-4,0,[0]\n",
    "an absurd layer": "n,l,read_kv\n4,999999,[0]\n",
    "an absurd step": "n,l,read_kv\n99999999999999999999,0,[0]\n",
    "a column missing": "n,l,read_kv\n4,[0]\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(case: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(TABLES[case])
    assert "bad.csv" in refuse(run, tmp_path, 3, "trace", "import", path, "-o", tmp_path / "out.trace")


def test_a_truncated_compressed_table(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv.gz"
    path.write_bytes(gzip.compress(b"n,l,read_kv\n4,0,[0]\n" * 1000)[:-20])
    refuse(run, tmp_path, 3, "trace", "import", path, "-o", tmp_path / "out.trace")
    refuse(run, tmp_path, 3, "trace", "import", tmp_path / "none.csv", "-o", tmp_path / "out.trace")


def edit_header(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | changes))


def replace_rows(folder: Path, rows: np.ndarray) -> None:
    np.save(folder / "layer-000.npy", rows)
    write_header(folder, 2, Timeline.of(4, 4))


def flip_a_bit(folder: Path) -> None:
    path = folder / "layer-001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def put_a_pickle(folder: Path) -> None:
    (folder / "layer-000.npy").write_bytes(pickle.dumps([0]))
    write_header(folder, 2, Timeline.of(4, 4))


def cut(folder: Path) -> None:
    path = folder / "layer-000.npy"
    path.write_bytes(path.read_bytes()[:-5])


FOLDERS: dict[str, Callable[[Path], object]] = {
    "no header": lambda folder: (folder / "header.json").unlink(),
    "a header that is no JSON": lambda folder: (folder / "header.json").write_text("{"),
    "a header that is a list": lambda folder: (folder / "header.json").write_text("[]"),
    "another schema": lambda folder: edit_header(folder, schema="kvbound.trace/2"),
    "other layers": lambda folder: edit_header(folder, layers=3),
    "other steps": lambda folder: edit_header(folder, decode_steps=5),
    "absurd steps": lambda folder: edit_header(folder, decode_steps=10**12),
    "an unknown field": lambda folder: edit_header(folder, more=1),
    "a file missing": lambda folder: (folder / "layer-001.npy").unlink(),
    "a file cut off": cut,
    "a changed bit": flip_a_bit,
    "a pickle": put_a_pickle,
    "rows of floats": lambda folder: replace_rows(folder, np.zeros((4, 8))),
    "rows of another width": lambda folder: replace_rows(folder, np.zeros((4, 16), np.uint8)),
    "rows of the future": lambda folder: replace_rows(folder, np.full((4, 8), 255, np.uint8)),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bad.trace"
    write_trace(Trace.from_lists(4, READS), folder)
    FOLDERS[case](folder)
    instance = tmp_path / "a.json"
    instance.write_text(json.dumps(document(trace={"path": "bad.trace"})))
    for argv in (("trace", "info", folder), ("instance", "expand", instance, "-o", tmp_path / "b.json")):
        assert "bad.trace" in refuse(run, tmp_path, 3, *argv)


def schedule(steps: int = 4) -> Schedule:
    """Everything in the slow tier."""
    return from_tiers(np.ones((2, 4), np.uint8), [np.ones((steps, 4 + steps), np.uint8)] * 2)


def test_schedules(run: Run, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "schedule.npz"
    for command in (("check", small, path), ("solve", small, "--method", "exact", "--start", path)):
        path.unlink(missing_ok=True)
        refuse(run, tmp_path, 3, *command)
        path.write_text("nothing like it")
        refuse(run, tmp_path, 3, *command)
        write_placement(schedule(), path, instance_sha256="0" * 64, tokens=8)
        path.write_bytes(path.read_bytes()[:-30])
        refuse(run, tmp_path, 3, *command)


def test_a_start_of_another_instance(run: Run, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "schedule.npz"
    write_placement(schedule(), path, instance_sha256="0" * 64, tokens=8)
    assert "another" in refuse(run, tmp_path, 3, "solve", small, "--method", "exact", "--start", path)


def test_a_folder_without_results(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refuse(run, tmp_path, 3, "check", small, tmp_path / "out")
    (tmp_path / "out" / "result.json").write_text('{"time_s": "soon"}')
    refuse(run, tmp_path, 3, "check", small, tmp_path / "out")


PARTS = ("--memory", "gh200-144", "--llm", "LLM", "--trace", "TRACE")

OPTIONS: dict[str, tuple[str, ...]] = {
    "no such command": ("prove",),
    "no such subcommand": ("trace", "sort"),
    "no such option": ("solve", "INSTANCE", "--fast"),
    "no instance": ("solve",),
    "an argument too many": ("solve", "INSTANCE", "INSTANCE"),
    "an option without its value": ("solve", "INSTANCE", "--method"),
    "no such method": ("solve", "INSTANCE", "--method", "exakt"),
    "no such policy": ("simulate", "INSTANCE", "--policy", "lruu"),
    "a solver is no policy": ("simulate", "INSTANCE", "--policy", "exact"),
    "no policy": ("simulate", "INSTANCE"),
    "a policy's option it has not": ("simulate", "INSTANCE", "--policy", "lru", "--set", "window=3"),
    "a setting without =": ("simulate", "INSTANCE", "--policy", "sa-guided", "--set", "window"),
    "a setting without value": ("simulate", "INSTANCE", "--policy", "sa-guided", "--set", "window="),
    "a setting of another type": ("simulate", "INSTANCE", "--policy", "sa-guided", "--set", "window=wide"),
    "a setting twice": ("simulate", "INSTANCE", "--policy", "page", "--set", "size=1", "--set", "size=2"),
    "a setting out of range": ("simulate", "INSTANCE", "--policy", "sa-guided", "--set", "window=1,0"),
    "a sweep into one folder": (
        "simulate", "INSTANCE", "--policy", "page", "--set", "size=1,2", "--out", "NEW",
    ),
    "one method twice": ("compare", "INSTANCE", "--methods", "lru,lru"),
    "no method between commas": ("compare", "INSTANCE", "--methods", "lru,,lfu"),
    "no such method among several": ("compare", "INSTANCE", "--methods", "lru,lffu", "--out", "NEW"),
    "a gap that is none": ("solve", "INSTANCE", "--gap", "small"),
    "a gap above 100 %": ("solve", "INSTANCE", "--gap", "150%"),
    "a negative gap": ("solve", "INSTANCE", "--gap", "-1"),
    "a gap for a policy": ("solve", "INSTANCE", "--method", "lru", "--gap", "1%"),
    "a required gap of no size": ("solve", "INSTANCE", "--require-gap"),
    "a start for a policy": ("solve", "INSTANCE", "--method", "lru", "--start", "SCHEDULE"),
    "a negative seed": ("solve", "INSTANCE", "--seed", "-1"),
    "a seed that is text": ("solve", "INSTANCE", "--seed", "zero"),
    "a time that is none": ("solve", "INSTANCE", "--time-limit", "nan"),
    "a negative time": ("compare", "INSTANCE", "--time-limit", "-5"),
    "no such kernel": ("solve", "INSTANCE", "--kernel", "cuda"),
    "results into a file": ("solve", "INSTANCE", "--method", "lru", "--out", "INSTANCE"),
    "results below a file": ("solve", "INSTANCE", "--method", "lru", "--out", "INSTANCE/out"),
    "an instance and parts": ("compare", "INSTANCE", *PARTS),
    "a capacity that looks like a share": ("compare", *PARTS, "--capacity", "0.3"),
    "an override of nothing": ("solve", "INSTANCE", "--override", "memory.resources.dwn=1GB/s"),
    "an override to nothing": ("bound", "INSTANCE", "--override", "memory.resources.down=fast"),
    "an override without a value": ("export", "INSTANCE", "--override", "memory", "-o", "NEW"),
    "an instance's capacity without unit": (
        "simulate", "INSTANCE", "--policy", "lru", "--capacity", "0.3",
    ),
    "parts missing": ("compare", "--memory", "gh200-144"),
    "neither instance nor parts": ("compare",),
    "no such memory": ("compare", "--memory", "gh199", "--llm", "LLM", "--trace", "TRACE"),
    "no such llm": ("compare", "--memory", "gh200-144", "--llm", "llama-0", "--trace", "TRACE"),
    "an llm of other layers": ("compare", "--memory", "gh200-144", "--llm", "gpt2", "--trace", "TRACE"),
    "no such rule": ("compare", *PARTS, "--rule", "copying=inclusive"),
    "no such word for a rule": ("compare", *PARTS, "--rule", "copies=3"),
    "a rule without =": ("compare", *PARTS, "--rule", "copies"),
    "a capacity that is none": ("compare", *PARTS, "--capacity", "24G"),
    "a capacity above all KV": ("compare", *PARTS, "--capacity", "200%"),
    "an override that leads nowhere": ("compare", *PARTS, "--override", "memory.speed.limit=1"),
    "an override that is no size": ("compare", *PARTS, "--override", "memory.tiers.hbm.capacity=big"),
    "an instance file where none can be": ("instance", "make", *PARTS, "-o", "INSTANCE/a.json"),
    "no such section": ("catalog", "memories"),
    "no such entry": ("catalog", "memory", "gh200-145"),
    "no such policy's entry": ("catalog", "policy", "lruu"),
    "no such method's entry": ("catalog", "method", "exakt"),
    "a config for a memory": ("catalog", "memory", "--from-config", "INSTANCE"),
    "a config and a name": ("catalog", "llm", "gpt2", "--from-config", "INSTANCE"),
    "a trace of no kind": (
        "trace", "synth", "--kind", "x", "--layers", "1", "--prefill", "1", "--steps", "1", "-o", "NEW",
    ),
    "a trace of no layers": (
        "trace", "synth", "--layers", "0", "--prefill", "1", "--steps", "1", "-o", "NEW",
    ),
    "a trace's unknown setting": (
        "trace", "synth", "--layers", "1", "--prefill", "1", "--steps", "1", "--set", "x=1", "-o", "NEW",
    ),
    "a trace over another file": ("trace", "import", "TRACE", "-o", "INSTANCE"),
    "sparser without attention": ("trace", "sparsify", "TRACE", "--share", "10%", "-o", "NEW"),
    "sparser by all": ("trace", "sparsify", "TRACE", "--share", "0", "-o", "NEW"),
    "sparser from a recording's sequence": (
        "trace", "sparsify", "TRACE", "--share", "10%", "--sequence", "1", "-o", "NEW",
    ),
    "a recording without prompt": ("trace", "sparsify", "a.npz", "--share", "10%", "-o", "NEW"),
    "a schedule of nothing": ("check", "INSTANCE"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str, run: Run, small: Path, tmp_path: Path) -> None:
    llm, trace, start = tmp_path / "llm.json", tmp_path / "trace.csv", tmp_path / "schedule.npz"
    llm.write_text(json.dumps(document()["llm"]))
    trace.write_text("n,l,read_kv\n4,0,[0]\n4,1,[1]\n")
    assert run("solve", small, "--method", "lru", "--out", tmp_path / "out", "-q").code == 0
    start.write_bytes((tmp_path / "out" / "schedule.npz").read_bytes())
    names = {"INSTANCE": small, "LLM": llm, "TRACE": trace, "SCHEDULE": start, "NEW": tmp_path / "new"}
    argv = [str(names.get(arg, arg)).replace("INSTANCE", str(small)) for arg in OPTIONS[case]]
    refuse(run, tmp_path, 2, *argv)
