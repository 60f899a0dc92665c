"""``kvbound limit``."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.paths import DATA

GH200 = (
    "limit", "--llm", "llama-3.1-70b", "--memory", "gh200-96-measured-memcpy", "--context", "1000",
    "--override", "memory.tiers.hbm.capacity=82.1GB",
)  # fmt: skip
OFFLOAD = (
    "limit",
    "--llm",
    "llama-3.1-8b",
    "--memory",
    "h100-pcie5",
    "--context",
    32768,
    "--batch",
    "1,8,64",
)


def test_a_measured_rate_is_a_share_of_the_limit(run: Run) -> None:
    ran = run(*GH200, "--measured", 4.6)
    assert ran.code == 0
    assert "hbm holds 82.1 GB, less than the weights" in ran.out
    assert "No placement decodes one sequence with 1,000 tokens of context at more than 6.204 tok" in ran.out
    assert ran.out.endswith("4.6 tokens/s are 74.2 % of the limit, and 85.3 % of the rate tier by tier.\n")
    known = run(*GH200, "--measured", 4.6, "--json").json
    assert known["schema"] == "kvbound.limit/1"
    assert known["share_of_limit"] == pytest.approx(0.742, abs=5e-4)
    [row] = known["rows"]
    assert row["tokens_per_s"] == 1 / row["time_s"]
    assert sum(row["reads_bytes"].values()) == pytest.approx(80 * (1_711_276_032 + 1000 * 4096))
    assert row["all_in_first_tier_tokens_per_s"] is None
    assert row["kv_in_second_tier_tokens_per_s"] is None


def test_rows_by_batch_and_where_a_sparse_read_can_pay(run: Run) -> None:
    ran = run(*OFFLOAD, "--share", "6.25%")
    lines = ran.out.splitlines()
    assert "the weights and 14 sequences of 32,768 tokens" in lines[1]
    assert [line.split()[1] for line in lines if line.startswith(" 32,768")] == ["1", "8", "64"]
    assert lines[0].endswith("6.25 % of the tokens read in every step")
    assert lines[-1].startswith(
        "With 6.25 % read, KV in other tiers can pay at a batch of 64 with 32,768 tokens: 7,"
    )
    rows = run(*OFFLOAD, "--share", "6.25%", "--json").json["rows"]
    rates = [row["tokens_per_s"] for row in rows]
    assert rates == sorted(rates)
    # 64 sequences do not fit: 14 of them do
    some = run(*OFFLOAD[:-1], "14", "--share", "6.25%", "--json").json["rows"][0]
    assert rows[2]["all_in_first_tier_tokens_per_s"] == some["all_in_first_tier_tokens_per_s"]
    every = run(*OFFLOAD[:-1], "1,2", "--share", "99.9%").out
    assert every.endswith("KV in other tiers pays in no row of the table.\n")


def test_more_than_the_limit_was_not_measured_like_this(run: Run) -> None:
    out = run(*GH200, "--measured", 7).out
    assert out.endswith("7 tokens/s exceed the limit: the number, or a setting, is not what was run.\n")


def test_a_capacity_as_a_share_is_of_each_row_s_own_kv(run: Run) -> None:
    change = ("--override", "memory.tiers.hbm.capacity=30%", "--json")
    both = run(*OFFLOAD[:-3], "1000,32768", *change).json["rows"]
    alone = run(*OFFLOAD[:-3], "32768", *change).json["rows"]
    assert both[1] == alone[0]


def test_windows_of_a_config_are_kept(run: Run) -> None:
    config = DATA / "llm-configs" / "gemma-3-27b.json"
    ran = run("limit", "--llm", config, "--memory", "h100-pcie5", "--context", "131072", "--json")
    row = ran.json["rows"][0]
    assert row["sequences_that_fit"] >= 1
    assert row["tokens_per_s"] > 50


def test_a_step_that_reads_nothing(run: Run) -> None:
    changes = ("--override", "llm.weight_read_bytes_per_layer=0", "--override", "memory.tiers.ddr5.writes=[]")
    ran = run("limit", "--llm", "llama-3.1-8b", "--memory", "h100-pcie5", "--context", "0", *changes)
    assert ran.code == 0
    assert ran.out.endswith("A step reads and writes nothing: there is no limit.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*GH200[1:], "--context", "5,-1"), 2, "--context: expected whole numbers from 0 on"),
        (("--context", "5"), 2, "give --llm, --memory and --context"),
        ((*GH200[1:], "--batch", "1,x"), 2, "--batch: expected whole numbers from 1 on"),
        ((*GH200[1:], "--measured", "-1"), 2, "--measured: expected tokens/s above 0"),
        ((*GH200[1:], "--share", "7"), 2, "--share: expected a share such as 60%"),
        ((*GH200[1:], "--override", "memory.tiers.ddr.capacity=1GB"), 2, "--override memory.tiers.ddr"),
        ((*GH200[1:], "--allocated", "9" * 400), 2, "--allocated: expected whole numbers"),
        ((*GH200[1:], "--allocated", "10"), 2, "room for 10 tokens does not hold a context of 1,000"),
        ((*GH200[1:], "--override", "memory.tiers.lpddr.capacity=1GB"), 4, "and 327.7 MB of KV do not fit"),
    ],
)  # fmt: skip
def test_mistakes(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = run("limit", *arguments)
    assert ran.code == code
    assert said in ran.err
    assert ran.err.count("\n") == 1
