"""The table of docs/accuracy.md is that of the file beside it."""

import csv

from tests.paths import ROOT


def test_the_page_shows_the_measured_figures() -> None:
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    lines = {line.split()[0]: line.split() for line in page.splitlines() if " %  " in line}
    with (ROOT / "docs" / "accuracy_smollm2.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 19
    for row in rows:
        shown = lines[row["format"]]
        assert shown[1] == f"{float(row['bytes_per_token']):,.0f}"
        assert shown[2] == f"{100 * float(row['saved_share']):.1f}"
        assert shown[4] == f"{float(row['perplexity']):.4g}"
        assert shown[5] == f"{100 * float(row['perplexity_change']):+.2f}"
        assert row["format"] in page.split("--formats '")[1].split("'")[0].split(",")
