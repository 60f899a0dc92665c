"""What README and manual tell readers to run, runs."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import pytest

import kvbound
from docs import tables
from kvbound.cli import main
from kvbound.instance import SCHEMA
from kvbound.instance_io import LIBRARY, library
from kvbound.policies import POLICIES
from kvbound.rules import Rules

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *tables.pages()]


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
    names = {*library(), *(path.stem for path in LIBRARY.glob("*/*.trace"))}
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


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_generated_parts_are_fresh(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.updated(text) == text, "run python -m docs.tables"


def test_every_generated_part_stands_on_one_page() -> None:
    found = [part[2] for page in tables.pages() for part in tables.MARKED.finditer(page.read_text("utf-8"))]
    assert sorted(found) == sorted(tables.PARTS)


def test_the_table_of_public_names_has_all_of_them() -> None:
    shown = set(re.findall(r"^\| `kvbound\.(\w+)` \|", tables.api(), re.M))
    assert shown == set(kvbound.__all__) - {"__version__"}


def test_the_pages_need_nothing_that_only_sphinx_shows() -> None:
    """But for the table of contents, which the index hides."""
    for page in PAGES:
        directives = re.findall(r"^(?:`{3,}|:{3,})\{(\S+)\}", page.read_text(encoding="utf-8"), re.M)
        assert directives == (["toctree"] if page.name == "index.md" else []), page.name


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_name_modules_that_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`(kvbound(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"{page.name}: {name}: {error}")


def test_policies_have_a_row() -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    for name in POLICIES:
        assert f"\n| `{name}` |" in page


def test_the_glossary_is_sorted() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = [term.casefold().replace(",", "") for term in re.findall(r"^\*\*(.+?)\.\*\*", page, re.M)]
    assert len(terms) > 50
    assert terms == sorted(terms)
