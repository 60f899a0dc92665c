from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate cache for each test."""
    monkeypatch.setenv("KVBOUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KVBOUND_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"
