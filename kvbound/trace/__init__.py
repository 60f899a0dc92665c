"""Read traces: the tokens that every decode step reads in every layer."""

from __future__ import annotations

import os
from pathlib import Path

from kvbound.errors import InputError
from kvbound.trace.build import Order, RowBuilder
from kvbound.trace.data import Trace
from kvbound.trace.folder import read_folder, write_header, write_trace
from kvbound.trace.table import import_csv, read_csv, write_csv

__all__ = [
    "Order",
    "RowBuilder",
    "Trace",
    "import_csv",
    "read_csv",
    "read_trace",
    "write_csv",
    "write_header",
    "write_trace",
]


def read_trace(path: Path | str) -> Trace:
    """Open a trace folder, or read a CSV file.

    Raises
    ------
    InputError
        There is no such trace, or it is damaged; the message names the file and the field.
    """
    place = Path(path)
    if os.path.isdir(place):
        return read_folder(place)
    if not os.path.exists(place):  # false for names that no file can have, where Path raises
        raise InputError(place, "", "a trace folder or a CSV file, but nothing is there")
    return read_csv(place)
