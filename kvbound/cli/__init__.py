"""The command line: parse, call the library, print.

Every failure ends in `main`: one sentence on stderr and the exit code scripts rely on.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from kvbound.errors import KvboundError, UsageError

INTERRUPTED = 130
DEFECT = 70


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments after the program's name, by default those of the process.

    Returns
    -------
    int
        The exit code: 0 done, 2 usage, 3 bad input, 4 infeasible, 5 limit reached, 6 rejected by the
        checker, 7 missing package, 70 a defect of kvbound, 130 interrupted.
    """
    _open_streams()
    try:
        return _run(argv)
    except KvboundError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", UsageError.exit_code)
    except MemoryError as error:
        return _fail(f"this needs more memory than there is: {error}", UsageError.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # of typer, or of the click it brings along
            return _usage(error)
        return _defect(error)


def script() -> NoReturn:
    """Run the command that the process was started for.

    A signal while the process ends, which takes a moment, no longer changes its exit code.
    """
    from kvbound.cli.interrupts import ignore

    code = main()
    ignore()
    sys.exit(code)


def _open_streams() -> None:
    """Let standard output and error go nowhere where a shell has closed them (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    from kvbound.cli.app import build
    from kvbound.cli.interrupts import interruptible

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text, terminals may lack letters
            stream.reconfigure(errors="backslashreplace")
    args = list(sys.argv[1:] if argv is None else argv)
    with interruptible():
        code = build()(args=args, prog_name="kvbound", standalone_mode=False)
    if code == INTERRUPTED:  # typer turns the interrupt into this
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    message = str(error.format_message()).strip()  # type: ignore[attr-defined]
    message = message.replace(": Value error, ", ": ")  # which some versions of typer put in
    if message.startswith("Usage:"):  # nothing was asked for: the help is the answer
        print(message, file=sys.stderr)
        return UsageError.exit_code
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kvbound"
    return _fail(f"{message.rstrip('.')} (see '{command} --help')", UsageError.exit_code)


def _defect(error: Exception) -> int:
    if os.environ.get("KVBOUND_DEBUG"):
        import traceback

        traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return _fail(f"{what}; this is a defect of kvbound, and KVBOUND_DEBUG=1 shows where it is", DEFECT)


def _fail(sentence: str, code: int) -> int:
    print(f"kvbound: {sentence}", file=sys.stderr)
    return code
