"""Rows of a JSONL file and their fields, with errors that name file, line and id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .._utils.text_lines import has_surrogates, numbered_lines
from .ids import check_id


class Row(NamedTuple):
    """A JSON object and where it stands."""

    file: Path
    line: int
    fields: dict[str, Any]

    def identifier(self) -> str:
        """Return ``_id``; an int is written out.

        Raises:
            ValueError: see `check_id`; the message names file and line.
        """
        if "_id" not in self.fields:
            raise self.error(f"'_id' must be a non-empty str, got none among the keys {list(self.fields)}")
        try:
            return check_id(self.fields["_id"], "'_id'")
        except ValueError as error:
            raise self.error(str(error)) from None

    def string(self, key: str, default: str | None = None) -> str:
        """Return a field; `default`, if given, where it is missing or null.

        Raises:
            ValueError: if it is no str or holds lone surrogates; the message names file, line and id.
        """
        value = self.fields.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            got = repr(value)[:80] if key in self.fields else f"none among the keys {list(self.fields)}"
            raise self.error(f"{key!r} must be a str, got {got}{_whose(self.fields)}")
        if has_surrogates(value):
            raise self.error(f"{key!r} holds a lone surrogate, half of a character{_whose(self.fields)}")
        return value

    def error(self, message: str) -> ValueError:
        """Return an error that names file and line."""
        return ValueError(f"{self.file}, line {self.line}: {message}")


def read_jsonl(file: Path) -> Iterator[Row]:
    """Iterate over the rows of a file, plain or ``.gz``; blank lines are passed over.

    Raises:
        ValueError: at a line that is not a JSON object, or what `numbered_lines` refuses.
    """
    for number, line in numbered_lines(file, _describe):
        if not line or line.isspace():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(
                f"{file}, line {number}: is not JSON, one object per line with nothing after it ({reason}): "
                f"{line.strip()[:80]!r}"
            ) from error
        if not isinstance(fields, dict):
            raise ValueError(f"{file}, line {number}: must be a JSON object, got {line.strip()[:80]!r}")
        yield Row(file, number, fields)


def _whose(fields: dict[str, Any]) -> str:
    return f" (_id {fields['_id']!r})" if "_id" in fields else ""


def _describe(line: str) -> str:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return _whose(fields) if isinstance(fields, dict) else ""
