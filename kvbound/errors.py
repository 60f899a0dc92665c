"""Errors a user can cause, each with the exit code scripts rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LONGEST = 200
"""Characters of a field's path that a message shows: files can name anything."""


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
        shown = field if len(field) <= _LONGEST else f"{field[:_LONGEST]}..."
        place = f"{file}: {shown}" if field else str(file)
        super().__init__(_printable(f"{place}: expected {expected}"))


def _printable(text: str) -> str:
    """Escape what would end the line or drive the terminal: names in files can hold anything."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


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
        super().__init__(install_command(extra))


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra to this installation, from where it came."""
    import json
    from importlib import metadata

    try:
        record = metadata.distribution("kvbound").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # a checkout on the path, not installed
        record = json.dumps({"url": Path(__file__).parents[1].as_uri()})
    return f"pip install {_source(json.loads(record or '{}'), extra)}"


def _source(origin: dict[str, Any], extra: str) -> str:
    """What pip takes, from the record of PEP 610: a folder or file, a repository, an address, or an index."""
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
