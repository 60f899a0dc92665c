"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from contextlib import redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

_DELAY_S = 2.0
_REFRESH_S = 0.1
_WIDE = 400  # without a terminal, wide enough not to wrap rows


def show(*parts: RenderableType) -> None:
    """Print tables and sentences for people."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    console = Console(width=width, color_system=_colours(), highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            if isinstance(part, str):
                lines = [_wrapped(line, console.width) for line in part.split("\n")]
                console.print("\n".join(lines), soft_wrap=True)
            else:
                console.print(part, crop=False)  # tables that are too wide keep their numbers intact
    emit("\n".join(line.rstrip() for line in captured.get().split("\n")))


def _wrapped(line: str, width: int) -> str:
    """Wrap a line between words, but neither within names nor within ``100 %``."""
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(line.replace(" %", "\xa0%")).replace("\xa0%", " %")


def _colours() -> Literal["auto"] | None:
    return None if os.environ.get("NO_COLOR") else "auto"


def show_json(document: object) -> None:
    """Print one JSON document."""
    emit(json.dumps(document, indent=2, allow_nan=False) + "\n")


def emit(text: str) -> None:
    """Write to stdout; a closed pipe, as with ``head``, is not an error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(sentence: str, *, quiet: bool = False) -> None:
    """Print a remark on stderr."""
    if not quiet:
        print(f"kvbound: {sentence}", file=sys.stderr)


def aside() -> redirect_stdout[TextIO]:
    """Redirect stdout to stderr, so that what a user's policy prints does not mix with the results."""
    return redirect_stdout(sys.stderr)


class Bar:
    """A progress bar on a terminal's stderr that appears after two seconds; callable as a `Progress`.

    While it is open, stdout is redirected to stderr.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._next = time.monotonic() + _DELAY_S
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._note = ""

    def __enter__(self) -> Bar:
        self._aside = aside()
        self._aside.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._aside.__exit__(kind, error, trace)

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Update the bar, at most every `_REFRESH_S` seconds."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _REFRESH_S
        if self._bar is None:
            self._bar = _progress()
            self._bar.start()
        if self._task is None or note != self._note:  # in another stage, rate and time left start again
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._note = self._bar.add_task(note, total=total, completed=int(done)), note
        self._bar.update(self._task, completed=done, total=total)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else f"{task.speed:,.3g}/s")

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Rate(),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=Console(stderr=True, color_system=_colours()), transient=True)
