"""Lines of a text file, plain or gzip, as others wrote it: with a byte-order mark, CRLF, Latin-1, or cut short."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from .documents import has_surrogates

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = "\ufeff"


def numbered_lines(file: Path, describe: Callable[[str], str] | None = None) -> Iterator[tuple[int, str]]:
    """Iterate over (line number from 1, line without its end); byte-order marks at the start of lines are taken off.

    Args:
        file: read as gzip if its name ends in ``.gz``.
        describe: says whose line it is (", e.g. ``" (_id 'd1')"``) from a line with undecodable bytes, for the error.

    Raises:
        ValueError: where the file is not UTF-8, holds NUL bytes, or is a damaged archive; it names file and line.
    """
    number = 0
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                line = line.rstrip("\r\n").lstrip(_BYTE_ORDER_MARK)  # inner marks come from files put together
                _check(line, f"{file}, line {number}", describe)
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}, after line {number}: cannot be read on, the gzip file is damaged or cut ({error}); fetch it again"
        ) from error


def _open(file: Path) -> TextIO:
    # undecodable bytes come through as surrogates, so that the error can name their line
    how = {"encoding": "utf-8", "errors": "surrogateescape"}
    with open(file, "rb") as binary:
        start = binary.read(2)
    if file.suffix != ".gz":
        if start == _GZIP_MAGIC:
            raise ValueError(f"{file}: is gzip, but its name does not end in .gz: rename it")
        return open(file, **how)
    if start != _GZIP_MAGIC:
        what = f"it starts with {start!r}" if start else "it is empty"
        raise ValueError(f"{file}: is not a gzip file ({what}): fetch it again, or take .gz off its name")
    return gzip.open(file, "rt", **how)


def _check(line: str, where: str, describe: Callable[[str], str] | None) -> None:
    if "\0" in line:
        raise ValueError(f"{where}: holds NUL bytes: the file is damaged, or not UTF-8")
    if has_surrogates(line):
        bad = next(place for place, c in enumerate(line) if "\ud800" <= c <= "\udfff")
        of = describe(line) if describe else ""
        raise ValueError(
            f"{where}: is not UTF-8 (byte 0x{ord(line[bad]) - 0xDC00:02X} at character {bad + 1}){of}: save it as UTF-8"
        )
