"""Errors that users can cause, each with its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LONGEST = 200
"""Largest number of characters of a field's path in a message, as names in files can be of any length."""


class KvboundError(Exception):
    """Base class of expected failures; the message is one sentence."""

    exit_code = 70


class UsageError(KvboundError):
    """An invalid option or combination of options."""

    exit_code = 2


class InputError(KvboundError):
    """An invalid input file.

    Parameters
    ----------
    file
        The file, or a name for input that is not from a file.
    field
        Dotted path of the invalid field; empty for the file as a whole.
    expected
        The expectation and what was found instead, in words.
    """

    exit_code = 3

    def __init__(self, file: object, field: str, expected: str) -> None:
        self.file, self.field, self.expected = str(file), field, expected
        shown = field if len(field) <= _LONGEST else f"{field[:_LONGEST]}..."
        place = f"{file}: {shown}" if field else str(file)
        super().__init__(_printable(f"{place}: expected {expected}"))


def _printable(text: str) -> str:
    """Escape line breaks and control characters, as names in files can contain any."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class InfeasibleError(KvboundError):
    """No placement satisfies the instance's capacities."""

    exit_code = 4


class LimitError(KvboundError):
    """A limit was reached before the required gap."""

    exit_code = 5


class RejectedError(KvboundError):
    """The independent checker rejected a schedule or a certificate."""

    exit_code = 6


class MissingPackageError(KvboundError):
    """An optional package is needed; the message is the command that installs it.

    Parameters
    ----------
    extra
        The extra of kvbound that brings it.
    command
        Another command to install it by, if it is no extra's.
    """

    exit_code = 7

    def __init__(self, extra: str = "", *, command: str = "") -> None:
        super().__init__(command or install_command(extra))


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra to this installation, from its original source."""
    import json
    from importlib import metadata

    try:
        record = metadata.distribution("kvbound").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # a checkout on the path, not installed
        record = json.dumps({"url": Path(__file__).parents[1].as_uri()})
    return f"pip install {_source(json.loads(record or '{}'), extra)}"


def _source(origin: dict[str, Any], extra: str) -> str:
    """Return the requirement for pip, by the PEP 610 record: a path, a repository, a URL, or an index."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    url = str(origin.get("url", ""))
    if not url:
        return f"'kvbound[{extra}]'"
    if url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        editable = "-e " * bool(origin.get("dir_info", {}).get("editable"))
        return f"{editable}'{path if path.exists() else '.'}[{extra}]'"
    repository = origin.get("vcs_info", {})
    if repository:
        url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
    return f"'kvbound[{extra}] @ {url}'"
