"""What README and manual tell readers to run, runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kvbound.cli import main
from kvbound.instance import SCHEMA, Rules
from kvbound.instance_io import library

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.exists()]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def pages_with(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pages_with("console")
def test_commands_end_well(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    commands = [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ kvbound ")]
    assert commands
    for command in commands:
        assert main(command[1:]) == 0, shlex.join(command)


@pages_with("python")
def test_python_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {"__name__": page.stem})
    assert capsys.readouterr().out


@pages_with("json")
def test_instance_files_are_instances(page: Path) -> None:
    for block in blocks(page, "json"):
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
