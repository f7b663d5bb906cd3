"""Lines of a text file, plain or gzip, as others wrote it: with a byte-order mark, CRLF, Latin-1, or cut short."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Iterate over (line number from 1, line without its end); byte-order marks at the start of lines are taken off.

    A file is read as gzip if it begins as gzip does, whatever its name.

    Raises:
        ValueError: where the file is not UTF-8, holds NUL bytes, or is a damaged archive; it names file and line.
    """
    with open(file, "rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    if file.suffix == ".gz" and not packed:
        raise ValueError(f"{file}: is no gzip file: fetch it again, or take .gz off its name")
    number = 0
    try:
        with gzip.open(file) if packed else open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8").rstrip("\r\n")
                if "\0" in text:
                    raise ValueError(f"{file}, line {number}: holds NUL bytes: the file is damaged, or not UTF-8")
                yield number, text.lstrip("\ufeff")  # inner marks come from files put together
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, line {number}: is not UTF-8 ({error}): save it as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}, after line {number}: cannot be read on, the gzip file is damaged or cut ({error}); fetch it again"
        ) from error
