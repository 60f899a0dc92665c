"""Users' own policies: objects, classes, and classes in files, written ``FILE.py:Class``."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kvbound.errors import KvboundError, UsageError
from kvbound.fields import did_you_mean
from kvbound.policies.base import MoveRequest, Scores
from kvbound.policies.view import Ids, InstanceView, Slot, Unseen
from kvbound.units import show

_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<cls>.*))?")
_LONGEST, _FORBIDDEN = 80, '/\\:,"'
_PACKAGE = __name__.rpartition(".")[0] + "."


def is_file(text: str) -> bool:
    """Whether `text` names a class in a file rather than a policy of kvbound."""
    return _FILE.fullmatch(text) is not None


def load_class(text: str) -> type[Any]:
    """Return the class that ``FILE.py:Class`` names; the file is run as an import would run it.

    Raises
    ------
    UsageError
        There is no such file or class, or running the file fails.
    """
    found = _FILE.fullmatch(text)
    assert found is not None
    path, name = Path(found["file"]), found["cls"]
    if not path.is_file():
        raise UsageError(f"policy {text}: there is no file {path}")
    module = _run(text, path)
    here = {key: each for key, each in vars(module).items() if _defined_in(each, module.__name__)}
    if not name:
        raise UsageError(f"policy {text}: expected FILE.py:Class{_listed(here)}")
    cls = getattr(module, name, None)
    if cls is None:
        raise UsageError(f"policy {text}: {path} has no {name}{did_you_mean(name, here) or _listed(here)}")
    if not isinstance(cls, type):
        raise UsageError(f"policy {text}: {name} is no class{_listed(here)}")
    return cls


def _run(text: str, path: Path) -> Any:
    """Run the file as a module; it can import from its own folder, as a script can."""
    name = f"kvbound_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"policy {text}: {path.name} {_described(error, path)}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _defined_in(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _listed(classes: dict[str, Any]) -> str:
    return f"; its classes are {', '.join(classes)}" if classes else ""


def make(cls: type[Any], name: str, options: dict[str, Any]) -> Any:
    """Return an object of a policy's class.

    Raises
    ------
    UsageError
        It does not take these options, or fails.
    """
    try:
        return cls(**options)
    except KvboundError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"policy {name}: {cls.__name__}() {_described(error, _file_of(cls))}") from error


def wrapped(policy: Any) -> Any:
    """Return a policy as the simulator takes it: kvbound's own unchanged, a user's as a `UserPolicy`.

    Raises
    ------
    UsageError
        It is not a policy.
    """
    if isinstance(policy, UserPolicy) or type(policy).__module__.startswith(_PACKAGE):
        return policy
    return UserPolicy(policy)


class UserPolicy:
    """A user's policy; an exception in it becomes a usage error of one sentence, with its name and line.

    `name` defaults to the class's, `oracle` to False, and `start` to the default fill.
    """

    def __init__(self, policy: Any) -> None:
        cls = type(policy)
        name = getattr(policy, "name", cls.__name__)
        if not callable(getattr(policy, "step", None)):
            raise UsageError(f"policy {_printable(name) or cls.__name__} has no method step(slot)")
        if not _printable(name):
            expected = f"up to {_LONGEST} printable characters without {_FORBIDDEN}"
            raise UsageError(f"policy {cls.__name__}: expected a name of {expected}, not {show(name)}")
        self.name: str = name
        self.oracle = bool(getattr(policy, "oracle", False))
        self._policy, self._file = policy, _file_of(cls)

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores | None:
        """Return its scores for the initial fill; None if it has no `start`."""
        start = getattr(self._policy, "start", None)
        return None if start is None else self._call("start", start, instance, rng)

    def place_weights(self, instance: InstanceView) -> Ids | None:
        """Return its tier of each layer's weights; None if it has no `place_weights`."""
        place = getattr(self._policy, "place_weights", None)
        return None if place is None else self._call("place_weights", place, instance)

    def step(self, slot: Slot) -> Scores | MoveRequest:
        """Return its scores or request."""
        return self._call("step", self._policy.step, slot)

    def _call(self, what: str, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Unseen as error:
            raise Unseen(f"policy {self.name}: {error}") from error
        except (KvboundError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"policy {self.name}: {what} {_described(error, self._file)}") from error


def _printable(name: object) -> str:
    """Return the name if it can stand in a table and as a folder's name, else an empty string."""
    short = isinstance(name, str) and 0 < len(name) <= _LONGEST
    fine = short and str(name).isprintable() and str(name).strip(". ") == name
    return str(name) if fine and not set(str(name)) & set(_FORBIDDEN) else ""


def _file_of(cls: type[Any]) -> Path | None:
    try:
        return Path(inspect.getfile(cls))
    except (OSError, TypeError):  # defined in an interactive session
        return None


def _described(error: BaseException, file: Path | None) -> str:
    """Return ``raised ValueError: message (mine.py, line 12)``, with the last line that is in the file."""
    message, place = " ".join(str(error).split()), ""
    if isinstance(error, SyntaxError) and error.filename:
        message, place = error.msg, f" ({Path(error.filename).name}, line {error.lineno})"
    elif file is not None:
        own = file.resolve()  # the whole path, as modules of kvbound may have the same name
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename).resolve() == own]
        place = f" ({file.name}, line {lines[-1]})" if lines else ""
    return f"raised {type(error).__name__}{': ' * bool(message)}{message}{place}"
