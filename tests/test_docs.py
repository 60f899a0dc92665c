"""What README and manual tell readers to run, runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from kvbound.cli import main
from kvbound.instance import SCHEMA, Rules
from kvbound.instance_io import library

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.exists()]


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """A page's blocks in these languages, in order, each with its language."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    return [(language, block) for language, block in found if language in languages]


def pages_with(*languages: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, *languages)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pages_with("console", "python")
def test_pages_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom in one folder: every command ends well, every piece of Python prints something."""
    monkeypatch.chdir(tmp_path)
    for example in (ROOT / "docs").glob("examples.py"):
        shutil.copy(example, tmp_path)
    for language, block in blocks(page, "console", "python"):
        capsys.readouterr()
        if language == "python":
            exec(compile(block, page.name, "exec"), {"__name__": page.stem})
            assert capsys.readouterr().out, block
            continue
        lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ kvbound ")]
        assert lines, block
        for line in lines:
            assert main(shlex.split(line)[1:]) == 0, line


@pages_with("json")
def test_instance_files_are_instances(page: Path) -> None:
    for _, block in blocks(page, "json"):
        document = json.loads(block)
        assert document["schema"] == SCHEMA
        Rules.from_mapping(document["rules"])


def test_pages_name_instances_that_exist() -> None:
    names = set(library())
    pattern = re.compile(r"`((?:tiny|swap|native|ext|three|paper)-[a-z0-9-]+)`")
    for page in PAGES:
        for name in pattern.findall(page.read_text(encoding="utf-8")):
            assert any(known.startswith(name) for known in names), f"{page.name}: {name}"


def test_the_benchmarks_page_names_every_benchmark() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for file in (ROOT / "tests" / "benchmarks").glob("bench_*.py"):
        assert f"`{file.stem}`" in page


def test_the_readme_shows_what_make_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and times; which of several optimal schedules the solver finds is its own affair."""
    demo = re.search(r"^DEMO := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert demo is not None
    assert main(["compare", demo[1]]) == 0
    shown = next(block for _, block in blocks(ROOT / "README.md", "text") if demo[1] in block)

    def rows(text: str) -> list[list[str]]:
        table = text.split("\n\n")[1]
        return [line.split()[:3] for line in table.splitlines() if line and line[0].isalpha()]

    assert rows(shown) == rows(capsys.readouterr().out)
    assert len(rows(shown)) > 10
