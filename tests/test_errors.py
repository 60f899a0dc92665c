"""Every error has its exit code and one sentence."""

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvbound import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("KvboundError", 70), ("UsageError", 2), ("InputError", 3), ("InfeasibleError", 4),
        ("LimitError", 5), ("RejectedError", 6), ("MissingPackageError", 7),
    ],
)  # fmt: skip
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.KvboundError)
    assert kind.exit_code == code


def test_input_errors_name_file_and_field() -> None:
    assert str(errors.InputError("x.json", "a.b", "a size")) == "x.json: a.b: expected a size"
    assert str(errors.InputError("x.json", "", "JSON")) == "x.json: expected JSON"


def test_the_message_for_a_missing_package_is_the_install_command() -> None:
    command = str(errors.MissingPackageError("plots"))
    assert command == errors.install_command("plots")
    assert command.startswith("pip install ")
    assert "[plots]" in command


HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'kvbound[fast]'"),  # from an index
        ({"url": HERE.as_uri(), "dir_info": {}}, f"pip install '{HERE}[fast]'"),
        ({"url": HERE.as_uri(), "dir_info": {"editable": True}}, f"pip install -e '{HERE}[fast]'"),
        ({"url": "file:///gone/kvbound", "dir_info": {}}, "pip install '.[fast]'"),
        (
            {"url": "https://example.org/kvbound.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}},
            "pip install 'kvbound[fast] @ git+https://example.org/kvbound.git@0a1b'",
        ),
        (
            {"url": "https://example.org/kvbound.whl", "archive_info": {}},
            "pip install 'kvbound[fast] @ https://example.org/kvbound.whl'",
        ),
    ],
)
def test_the_command_installs_from_the_original_source(
    record: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if record is None else json.dumps(record)
    installed = SimpleNamespace(read_text=lambda name: text)
    monkeypatch.setattr(metadata, "distribution", lambda name: installed)
    assert errors.install_command("fast") == command


def test_a_checkout_that_is_not_installed_is_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert errors.install_command("fast") == f"pip install '{Path(errors.__file__).parents[1]}[fast]'"
