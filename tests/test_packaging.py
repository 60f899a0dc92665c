"""Packaging: versions agree, data is in the package, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import kvbound

ROOT = Path(__file__).parent.parent
HEAVY = {
    "pandas", "scipy", "highspy", "pyomo", "numba", "matplotlib", "torch", "rich", "typer", "gguf",
    "tokenizers",
}  # fmt: skip


def test_the_version_is_the_same_everywhere() -> None:
    assert metadata.version("kvbound") == kvbound.__version__
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == kvbound.__version__
    citation = ROOT / "CITATION.cff"
    if citation.exists():  # it is not in the sdist
        assert f"\nversion: {kvbound.__version__}\n" in citation.read_text()


def test_data_and_type_marker_are_in_the_package() -> None:
    package = resources.files("kvbound")
    assert package.joinpath("py.typed").is_file()
    data = package.joinpath("instances")
    catalog = [f"catalog/{name}.toml" for name in ("memory", "accelerator", "part", "llm")]
    for name in (*catalog, "best_known.csv", "real/native-r15.trace/layer-000.npy"):
        assert data.joinpath(*name.split("/")).is_file()
    assert package.joinpath("accuracy", "texts", "alice.txt").is_file()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, kvbound; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(loaded.split())


def test_the_top_level_links_lead_into_the_package() -> None:
    for name in ("models", "solvers", "instances"):
        link = ROOT / name
        if (ROOT / ".git").exists():
            assert link.is_symlink()
            assert link.resolve() == ROOT / "kvbound" / name
