import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from kvbound.trace import Trace, read_trace, write_trace
from kvbound.trace.statistics import trace_info
from tests.cli.conftest import READS, Run, contents

CSV = 'n,l,read_kv\n4,0,"[3,0]"\n4,1,[1]\n5,0,[]\n5,1,"[4,2,0]"\n'
SYNTH = ("trace", "synth", "--layers", "2", "--prefill", "50", "--steps", "20")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace(Trace.from_lists(4, READS, source="by hand"), tmp_path / "a.trace")
    return tmp_path / "a.trace"


def test_csv_import_and_export_round_trip(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(CSV)
    out = tmp_path / "a.trace"
    ran = run("trace", "import", tmp_path / "in.csv", "-o", out, "--source", "us", "--licence", "CC0")
    assert (ran.code, ran.out) == (0, "")
    assert "2 layers, 4 + 2 tokens" in ran.err
    assert (read_trace(out).source, read_trace(out).licence) == ("us", "CC0")
    assert run("trace", "export", out, "-o", tmp_path / "out.csv", "-q") == (0, "", "")
    assert (tmp_path / "out.csv").read_text() == CSV


def test_info(run: Run, folder: Path) -> None:
    known = run("trace", "info", folder, "--json").json
    assert known.pop("schema") == "kvbound.trace-info/1"
    assert known["overall"]["reads_mean"] == trace_info(read_trace(folder)).overall.reads_mean
    text = run("trace", "info", folder).out
    assert "2 layers, 4 + 4 tokens" in text
    assert "by hand" in text
    assert run("trace", "info", folder, "--layers").out.count("\n") == text.count("\n") + 5


def test_info_of_a_trace_too_short_for_most_statistics(run: Run, tmp_path: Path) -> None:
    write_trace(Trace.from_lists(0, [[[]]]), tmp_path / "b.trace")
    ran = run("trace", "info", tmp_path / "b.trace", "--layers")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("kind", ["fang2025", "random-swap", "recorded-like"])
def test_synthetic_traces_are_the_same_bytes_every_time(kind: str, run: Run, tmp_path: Path) -> None:
    def digest(name: str, *more: str) -> str:
        assert run(*SYNTH, "--kind", kind, "--sparsity", "60%", *more, "-o", tmp_path / name).code == 0
        return hashlib.sha256(b"".join(contents(tmp_path / name).values())).hexdigest()

    assert digest("a.trace") == digest("b.trace") != digest("c.trace", "--seed", "1")
    share = trace_info(read_trace(tmp_path / "a.trace")).overall.share_of_past
    assert share == pytest.approx(0.4, abs=0.02)


def test_experts_are_named_combined_and_measured(run: Run, tmp_path: Path) -> None:
    routing = [
        part for each in ("experts=8", "experts_per_token=2", "repeat=50%") for part in ("--set", each)
    ]
    for name, seed in (("a", "0"), ("b", "1")):
        out = tmp_path / f"{name}.trace"
        assert run(*SYNTH, *routing, "--seed", seed, "-o", out).code == 0
        text = run("trace", "info", out).out
        assert "experts         2.0 per slot of " in text
        assert " are read again in the next step\n" in text
    plain = tmp_path / "plain.trace"
    assert run(*SYNTH, "-o", plain).code == 0
    assert (plain / "layer-000.npy").read_bytes() == (tmp_path / "a.trace" / "layer-000.npy").read_bytes()
    assert "experts" not in run("trace", "info", plain).out
    both = tmp_path / "both.trace"
    assert (
        run("trace", "batch", tmp_path / "a.trace", tmp_path / "b.trace", "--starts", "0,3", "-o", both).code
        == 0
    )
    measured = run("trace", "info", both, "--json").json["experts"]
    assert (measured["named_min"], measured["named_max"]) == (2, 4)
    ran = run("trace", "batch", plain, both, "-o", tmp_path / "x.trace")
    assert ran.code == 2
    ran = run("trace", "batch", plain, tmp_path / "a.trace", "-o", tmp_path / "x.trace")
    assert (ran.code, "trace 2 names experts, the first none" in ran.err) == (2, True)
    ran = run(*SYNTH, "--set", "experts=0", "-o", tmp_path / "x.trace")
    assert (ran.code, "experts: expected 1 to 2,048 experts" in ran.err) == (2, True)
    assert run("trace", "export", both, "-o", tmp_path / "x.csv").code == 2


def test_settings_of_a_kind(run: Run, tmp_path: Path) -> None:
    argv = (*SYNTH, "--kind", "random-swap", "--set", "variation=0%", "-o", tmp_path / "a.trace")
    assert run(*argv).code == 0
    assert trace_info(read_trace(tmp_path / "a.trace")).overall.overlap == 1


def test_sparsify(run: Run, tmp_path: Path) -> None:
    mass = [[list(range(len(ids))) for ids in step] for step in READS]
    write_trace(Trace.from_lists(4, READS, mass=mass), tmp_path / "a.trace")
    ran = run("trace", "sparsify", tmp_path / "a.trace", "--share", "20%", "-o", tmp_path / "b.trace")
    assert ran.code == 0
    kept = read_trace(tmp_path / "b.trace")
    assert kept.reads(0, 0).tolist() == [3]  # one of four, the heaviest
    ran = run("trace", "sparsify", tmp_path / "b.trace", "--share", "60%", "-o", tmp_path / "c.trace")
    assert ran.code == 0  # what was not recorded cannot come back
    assert "b.trace has fewer reads than requested in" in ran.err


def test_from_recorded_queries_and_keys(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((1, 2, 12, heads, 4)).astype(np.float16) for heads in (4, 2))
    np.savez(tmp_path / "qk.npz", q=q, k=k)
    argv = ("trace", "sparsify", tmp_path / "qk.npz", "--share", "50%", "--prefill", "8")
    assert run(*argv, "--steps", "3", "-o", tmp_path / "a.trace").code == 0
    made = read_trace(tmp_path / "a.trace")
    assert made.counts().tolist() == [[4, 4], [5, 5], [5, 5]]
    assert run(*argv, "--sequence", "1", "-o", tmp_path / "b.trace").code == 2
    (tmp_path / "qk.npz").write_text("no archive")
    assert run(*argv, "-o", tmp_path / "b.trace").code == 3
    assert not (tmp_path / "b.trace").exists()


def test_batch(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.trace"
    ran = run("trace", "batch", folder, folder, "--starts", "0,3", "-o", out)
    assert (ran.code, ran.out) == (0, "")
    assert "wrote" in ran.err
    both = read_trace(out)
    assert both.timeline.outputs.sum() == 2 * len(READS)
    assert both.timeline.sequence.max() == 1
    assert f"{both.tokens - 4:,} tokens in {len(READS) + 3} steps" in ran.err
    assert run("trace", "batch", folder, "-o", tmp_path / "c.trace", "-q") == (0, "", "")
    assert read_trace(tmp_path / "c.trace").row_hashes() == read_trace(folder).row_hashes()
    for argv, message in (
        (("--starts", "1,2"), "the earliest 0"),
        (("--starts", "0"), "one start for each of 2 traces"),
        (("--starts", "0,99999999999"), "a.trace: expected at most 16,777,216 steps times layers"),
        (("--starts", "a,b"), "--starts: expected whole numbers from 0 on, separated by commas, not 'a,b'"),
    ):
        ran = run("trace", "batch", folder, folder, *argv, "-o", tmp_path / "d.trace")
        assert ran.code == 2
        assert message in ran.err
    assert run("trace", "export", out, "-o", tmp_path / "b.csv").code == 2
    assert not (tmp_path / "d.trace").exists()


def test_synthetic_batches(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "a.trace"
    argv = (*SYNTH, "--kind", "random-swap", "--set", "batch=3", "--set", "arrivals=[0, 0, 5]", "-o", out)
    assert run(*argv).code == 0
    assert read_trace(out).timeline.outputs.tolist() == [2] * 5 + [3] * 15 + [1] * 5


def test_dense_reads_are_written_without_rows(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "d.trace"
    assert run(*SYNTH, "--kind", "dense", "-o", out, "-q") == (0, "", "")
    assert [file.name for file in out.iterdir()] == ["header.json"]
    known = run("trace", "info", out, "--json").json
    assert known["overall"]["share_of_past"] == 1
    assert known["overall"]["reads_max"] == 69
    assert run("trace", "export", out, "-o", tmp_path / "d.csv", "-q").code == 0
    assert read_trace(tmp_path / "d.csv").row_hashes() == read_trace(out).row_hashes()


def test_dense_reads_are_solved_expanded_and_checked(run: Run, tmp_path: Path) -> None:
    trace, file, found = tmp_path / "d.trace", tmp_path / "full.json", tmp_path / "found"
    run(*SYNTH, "--kind", "dense", "-o", trace, "-q")
    llm = {"name": "l", "layers": 2, "kv_bytes_per_token_layer": 1000, "weight_bytes": 0}
    document = {
        "schema": "kvbound.instance/1", "name": "dense", "memory": "gh200-96", "trace": {"path": trace.name},
        "llm": llm | {"weight_read_bytes_per_layer": 0}, "overrides": {"memory.tiers.hbm.capacity": "40%"},
    }  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(document))
    assert run("instance", "expand", tmp_path / "d.json", "-o", file, "-q").code == 0
    expanded = json.loads(file.read_text())
    assert expanded["trace"]["dense"] is True
    assert run("solve", file, "--method", "pricing", "--work", "200", "--out", found, "-q").code == 0
    assert run("check", tmp_path / "d.json", found).code == 0
    expanded["trace"]["dense"] = False
    file.write_text(json.dumps(expanded))
    assert "trace.dense: expected True as in full.trace, not False" in run("check", file, found).err
