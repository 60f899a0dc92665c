"""The command line: parse, call the library, print.

Every failure ends in `main`, with one sentence on stderr and a documented exit code.
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
        if hasattr(error, "format_message"):  # from typer, or from the click it bundles
            return _usage(error)
        return _defect(error)


def script() -> NoReturn:
    """Run the command of this process, and exit.

    Signals during the exit, which takes a moment, do not change the exit code.
    """
    from kvbound.cli.interrupts import ignore

    code = main()
    ignore()
    sys.exit(code)


def _open_streams() -> None:
    """Redirect standard output and error to the null device where a shell has closed them (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    from kvbound.cli.app import build
    from kvbound.cli.interrupts import interruptible

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # file names may not be valid text, and terminals may lack characters
            stream.reconfigure(errors="backslashreplace")
    args = list(sys.argv[1:] if argv is None else argv)
    with interruptible():
        code = build()(args=args, prog_name="kvbound", standalone_mode=False)
    if code == INTERRUPTED:  # typer converts the interrupt into this code
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    message = str(error.format_message()).strip()  # type: ignore[attr-defined]
    message = message.replace(": Value error, ", ": ")  # inserted by some versions of typer
    if message.startswith("Usage:"):  # without arguments the help is printed
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
