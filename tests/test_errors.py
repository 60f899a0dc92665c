"""Every error has its exit code and one sentence."""

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


def test_a_missing_package_comes_with_the_command_that_installs_it() -> None:
    assert str(errors.MissingPackageError("plots")) == "pip install 'kvbound[plots]'"
