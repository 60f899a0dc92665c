"""Errors a user can cause, each with the exit code scripts rely on."""

from __future__ import annotations


class KvboundError(Exception):
    """Base of every expected failure; the message is one clear sentence."""

    exit_code = 70


class UsageError(KvboundError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class InputError(KvboundError):
    """A bad input file.

    Parameters
    ----------
    file
        The file, or what stands for it when the input did not come from a file.
    field
        Dotted path of the offending field; empty if the file as a whole is bad.
    expected
        What was expected there, and what was found.
    """

    exit_code = 3

    def __init__(self, file: object, field: str, expected: str) -> None:
        self.file, self.field, self.expected = str(file), field, expected
        place = f"{file}: {field}" if field else str(file)
        super().__init__(f"{place}: expected {expected}")


class InfeasibleError(KvboundError):
    """No placement satisfies the instance's capacities."""

    exit_code = 4


class LimitError(KvboundError):
    """A limit was reached before the required gap."""

    exit_code = 5


class RejectedError(KvboundError):
    """The independent checker did not accept a schedule or certificate."""

    exit_code = 6


class MissingPackageError(KvboundError):
    """An optional package is needed; the message is the command that installs it."""

    exit_code = 7

    def __init__(self, extra: str) -> None:
        super().__init__(f"pip install 'kvbound[{extra}]'")
