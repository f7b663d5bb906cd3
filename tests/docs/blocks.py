"""Code blocks of Markdown and reStructuredText pages, in order, with the reasons why some are not run.

A block that no test can run carries its reason in a comment right before it:

    <!-- not run: needs a hub -->          in Markdown
    .. not run: needs a hub                in reStructuredText
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"^\.\. code-block:: (\w+)\n((?:\n|   .*\n)+)", re.MULTILINE)
_LITERAL = re.compile(r"^(?!\.\.).*::\n\n((?:\n|   .*\n)+)", re.MULTILINE)
_REASON = {
    ".md": re.compile(r"<!-- not run: *(.*?) *-->\n*\Z"),
    ".rst": re.compile(r"^\.\. not run: *(.*?) *\n+\Z", re.MULTILINE),
}


@dataclass(frozen=True)
class Block:
    """A code block of a page; ``reason``: why it is not run, or ``None``; ``line``: of its first line of code."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in (_FENCE if page.suffix == ".md" else _DIRECTIVE).finditer(text):
        reason = _REASON[page.suffix].search(text[: match.start()])
        body = match[2] if page.suffix == ".md" else textwrap.dedent(match[2].strip("\n")) + "\n"
        start = match.start(2) + len(match[2]) - len(match[2].lstrip("\n"))
        found.append(Block(page, text.count("\n", 0, start) + 1, match[1], body, reason and reason[1]))
    if page.suffix == ".rst" and _LITERAL.search(text):
        raise ValueError(f"{page.name}: write `.. code-block:: LANGUAGE` in place of `::`, which names no language")
    return found
