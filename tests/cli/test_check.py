import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run, document
from tests.paths import DATA


@pytest.fixture
def out(run: Run, small: Path, tmp_path: Path) -> Path:
    assert run("solve", small, "--method", "belady", "--out", tmp_path / "out").code == 0
    return tmp_path / "out"


def test_accepted(run: Run, small: Path, out: Path) -> None:
    ran = run("check", small, out / "schedule.npz")
    assert (ran.code, ran.err) == (0, "")
    assert "schedule.npz: accepted" in ran.out
    claimed = json.loads((out / "result.json").read_text())["time_s"]
    report = run("check", small, out, "--json").json
    assert report["ok"] is True
    assert report["time_s"] == pytest.approx(claimed, rel=1e-12)


def test_every_problem_is_a_sentence(run: Run, small: Path, out: Path) -> None:
    with np.load(out / "schedule.npz") as file:
        arrays = dict(file)
    arrays["initial"] = np.zeros_like(arrays["initial"])
    np.savez(out / "schedule.npz", **arrays)
    ran = run("check", small, out / "schedule.npz")
    assert ran.code == 6
    assert "schedule.npz: rejected\n- " in ran.out
    assert ran.err.startswith("kvbound: the checker rejects ")
    report = run("check", small, out / "schedule.npz", "--json")
    assert (report.code, report.json["ok"]) == (6, False)
    assert len(report.json["problems"]) == ran.out.count("\n- ")


def test_a_false_time_is_rejected(run: Run, small: Path, out: Path) -> None:
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(result | {"time_s": result["time_s"] * 0.99}))
    ran = run("check", small, out)
    assert ran.code == 6
    assert "claimed" in ran.out


def test_a_schedule_of_another_instance(run: Run, out: Path) -> None:
    ran = run("check", "tiny-on-read", out / "schedule.npz")
    assert ran.code == 6


def test_a_folder_has_its_certificate_checked_too(run: Run, small: Path, tmp_path: Path) -> None:
    both, bound = tmp_path / "both", tmp_path / "bound"
    assert run("solve", small, "--method", "pricing", "--time-limit", "1", "--out", both).code == 0
    assert run("solve", small, "--method", "dual", "--time-limit", "1", "--out", bound).code == 0
    assert run("check", small, both).out.count("accepted") == 3
    report = run("check", small, both, "--json").json
    assert report["checked"] == "kvbound.schedule/1"
    assert report["certificate"]["checked"] == run("check", small, bound, "--json").json["checked"]
    with np.load(both / "certificate.npz") as file:
        arrays = dict(file)
    np.savez(both / "certificate.npz", **arrays | {"bound_s": arrays["bound_s"] * (1 + 1e-9)})
    ran = run("check", small, both)
    assert ran.code == 6
    assert "certificate.npz" in ran.err


def test_another_instance_is_named_before_what_does_not_fit(run: Run, out: Path) -> None:
    """Sizes differ, too; that is not what a person has to know."""
    ran = run("check", "tiny-on-read", out / "schedule.npz")
    assert "rejected\n- the file was made for another instance" in ran.out


def test_a_result_without_a_schedule(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("solve", small, "--method", "relax", "--out", tmp_path / "bound").code == 0
    assert run("check", small, tmp_path / "bound").code == 3


def test_a_schedule_too_large_for_events(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as bits, checked like any other, and a start for a search."""
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    name, out = "swap-4x64-c30-b450", tmp_path / "out"
    assert run("solve", name, "--method", "pricing", "--time-limit", "1", "--out", out).code == 0
    report = run("check", name, out, "--json").json
    assert (report["ok"], report["checked"]) == (True, "kvbound.residency/1")
    claimed = json.loads((out / "result.json").read_text())["time_s"]
    assert report["time_s"] == pytest.approx(claimed, rel=1e-12)
    options = "--start", out / "schedule.npz", "--time-limit", "1", "--json"
    for method in ("pricing", "anneal", "exact"):
        started = run("solve", name, "--method", method, *options)
        assert started.code == 0, started.err
        assert started.json["time_s"] <= claimed * (1 + 1e-9)
    other = run("solve", "swap-1x200-c30-b450", "--method", "anneal", *options)
    assert other.code == 3
    assert "instance_sha256" in other.err


def edited(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_false_result_is_rejected(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("solve", small, "--method", "pricing", "--time-limit", "1", "--out", out).code == 0
    instance = json.loads((out / "result.json").read_text())["instance"]
    edited(out / "result.json", instance=instance | {"name": "another name", "sha256": "0" * 64})
    ran = run("check", small, out)
    assert ran.code == 6
    assert "result.json: rejected\n- instance.sha256 is claimed to be '000" in ran.out
    assert ran.out.count("\n- ") == 1
    assert run("check", small, out, "--json").json["ok"] is False


def test_a_false_energy_is_rejected(run: Run, tmp_path: Path) -> None:
    """The instance's own energies count: with others the same result is false."""
    joules = {name: {"device": {"mid": 1 + n}} for n, name in enumerate(("hbm", "down", "up", "dram"))}
    memory = document()["memory"] | {"energy": joules, "static_watts": 2}
    place, out = tmp_path / "powered.json", tmp_path / "out"
    place.write_text(json.dumps(document(memory=memory)))
    ran = run("solve", place, "--method", "lru", "--out", out)
    assert " per token: weights " in ran.out
    assert "(device level, mid estimates)" in ran.out
    assert run("check", place, out).code == 0
    energy = json.loads((out / "result.json").read_text())["energy_j"]
    assert set(energy) == {"weights", "kv", "moves", "compute", "static"}
    assert energy["compute"] is None
    other = run("check", place, out, "--override", "memory.energy.hbm.device.mid=2")
    assert other.code == 6
    assert "result.json: rejected\n- energy_j.weights is claimed to be " in other.out
    edited(out / "result.json", energy_j=energy | {"moves": energy["moves"] * 1.01})
    ran = run("check", place, out)
    assert ran.code == 6
    assert "- energy_j.moves is claimed to be " in ran.out


def test_a_comparison_with_energies(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    case = "b2-8b-h100-c25"
    assert run("compare", case, "--methods", "lru,static,ideal", "--out", out).code == 0
    assert "energy_per_token_j" in (out / "compare.csv").read_text()
    assert run("check", case, out).code == 0


def test_the_sequences_of_a_batch(run: Run, tmp_path: Path) -> None:
    """Blocks of one token: the labels are not in the expanded instance, but in the file."""
    trace = {"prefill_tokens": 3, "births": [2, 2], "sequence": [0, 0, 1, 0, 1, 0, 1]}
    place, out = tmp_path / "batch.json", tmp_path / "out"
    place.write_text(json.dumps(document(trace=trace | {"reads": [[[0, 2], [1]], [[0], [2, 3]]]})))
    ran = run("solve", place, "--method", "belady", "--out", out)
    assert "2, with mean times per output token from " in ran.out
    assert "The time of belady's schedule: " in ran.out
    assert run("check", place, out).code == 0
    sequences = json.loads((out / "result.json").read_text())["sequences"]
    assert [each["outputs"] for each in sequences] == [2, 2]
    sequences[1]["outputs"] = 3
    edited(out / "result.json", sequences=sequences)
    ran = run("check", place, out)
    assert ran.code == 6
    assert "- sequences.1.outputs is claimed to be 3, but is 2" in ran.out


def test_an_input_that_failed_in_use(run: Run) -> None:
    """Accurate files beside a result that claims a bound of 1e9 s, certified, for another instance."""
    data = DATA / "false-result"
    ran = run("check", data / "base.json", data / "out")
    assert ran.code == 6
    assert "bound.time_s is claimed to be 1000000000.0, but the certificate proves only" in ran.out
    assert "schedule.npz: accepted" in ran.out


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{}", "schema"),
        ("[]", ""),
        ('{"schema": NaN}', "finite"),
        ("", "JSON"),
        ("\xff", ""),
        ("9" * 5000, ""),
    ],
)
def test_a_malformed_result(run: Run, small: Path, out: Path, text: str, field: str) -> None:
    (out / "result.json").write_text(text, encoding="latin-1")
    ran = run("check", small, out)
    assert (ran.code, ran.out) == (3, "")
    assert field in ran.err
    edited_field = run("check", small, out / "none")
    assert edited_field.code == 3


def test_a_comparisons_folders_hold_what_proves_the_shared_bound(
    run: Run, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("compare", small, "--methods", "lru,pricing", "--time-limit", "1", "--out", out).code == 0
    for method in ("lru", "pricing"):
        assert json.loads((out / method / "result.json").read_text())["bound"]["status"] == "certified"
        assert run("check", small, out / method).code == 0


@pytest.fixture
def compared(run: Run, small: Path, tmp_path: Path) -> Path:
    out = tmp_path / "compared"
    assert run("compare", small, "--methods", "lru,best,dual", "--work", "20", "--out", out).code == 0
    return out


def test_a_comparison_without_a_schedule_says_nothing_of_its_time(
    run: Run, small: Path, compared: Path
) -> None:
    (compared / "lru" / "schedule.npz").unlink()
    ran = run("check", small, compared)
    assert ran.code == 6
    assert "there is no schedule" in ran.out


@pytest.mark.parametrize("place", ["compare.json", "compare.csv", "lru/result.json"])
def test_a_comparison_that_makes_a_policy_faster(run: Run, small: Path, compared: Path, place: str) -> None:
    time_s = json.loads((compared / "lru/result.json").read_text())["time_s"]
    text = (compared / place).read_text()
    (compared / place).write_text(text.replace(repr(time_s), repr(time_s * 0.9)))
    ran = run("check", small, compared)
    assert ran.code == 6
    assert "rejected" in ran.out


@pytest.mark.parametrize("name", ["../lru", "..", ".", "/lru"])
def test_a_comparison_names_no_folders_elsewhere(run: Run, small: Path, compared: Path, name: str) -> None:
    file = compared / "compare.json"
    file.write_text(file.read_text().replace('"lru"', json.dumps(name)))
    ran = run("check", small, compared)
    assert (ran.code, ran.out) == (3, "")
    assert "results.0.method" in ran.err


def test_a_bound_that_nothing_proves_is_named(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbound.solvers.mip.exact.prove", lambda *case, **options: None)
    assert run("solve", small, "--method", "exact", "--out", tmp_path / "out").code == 0
    ran = run("check", small, tmp_path / "out")
    assert ran.code == 0
    assert "claimed by exact are not verified" in ran.err


def test_a_tree_of_certificates(run: Run, small: Path, tmp_path: Path) -> None:
    """The folder of `exact` has one, checked with the folder and alone; a changed one is refused."""
    out, proof = tmp_path / "out", tmp_path / "out" / "proof.npz"
    assert run("solve", small, "--method", "exact", "--out", out).code == 0
    assert json.loads((out / "result.json").read_text())["bound"]["status"] == "certified"
    ran = run("check", small, out)
    assert (ran.code, ran.out.count("accepted")) == (0, 3)
    assert run("check", small, proof).code == 0
    with np.load(proof) as file:
        arrays = dict(file)
    np.savez(proof, **arrays | {"bound_s": 1.01 * arrays["bound_s"]})
    assert run("check", small, proof).code == 6
    np.savez(proof, **arrays | {"parent": arrays["parent"] - 1})
    ran = run("check", small, proof)
    assert ran.code == 6
    assert "a root, node 0" in ran.out
    proof.unlink()
    ran = run("check", small, out)
    assert ran.code == 6
    assert "there is no certificate" in ran.out


def test_the_bound_of_a_tree_is_shared(run: Run, small: Path, tmp_path: Path) -> None:
    """Every folder of a comparison has the tree that proves its bound."""
    out = tmp_path / "out"
    assert run("compare", small, "--methods", "lru,exact", "--out", out).code == 0
    assert (out / "lru" / "proof.npz").is_file()
    assert run("check", small, out).code == 0


def test_the_published_ideal_is_computed_again(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    instance = tmp_path / "study.json"
    instance.write_text(json.dumps(document(rules={"migration": "on-read", "accounting": "fang2025"})))
    assert run("solve", instance, "--method", "best", "--out", out).code == 0
    assert run("check", instance, out).code == 0
    edited(out / "result.json", time_s=1.0, tokens_per_s=4.0)
    assert run("check", instance, out).code == 6


def test_the_folder_of_a_comparison(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        run("compare", small, "--methods", "lru,lfu,ideal,dual", "--time-limit", "1", "--out", out).code == 0
    )
    ran = run("check", small, out)
    assert ran.code == 0
    for name in ("lru/schedule.npz", "lfu/result.json", "dual/certificate.npz", "compare.json"):
        assert f"{out / name}: accepted" in ran.out
    assert "bounds claimed by ideal are not verified" in ran.err
    assert run("check", small, out, "--json").json["ok"] is True
    listed = json.loads((out / "compare.json").read_text())
    listed["results"][0]["time_s"] /= 2
    (out / "compare.json").write_text(json.dumps(listed))
    ran = run("check", small, out, "--json")
    assert (ran.code, ran.json["ok"]) == (6, False)
    for text in ("[]", "{}", '{"schema": "kvbound.compare/1", "results": 3}'):
        (out / "compare.json").write_text(text)
        assert run("check", small, out).code == 3
