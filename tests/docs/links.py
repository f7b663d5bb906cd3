"""Relative links of Markdown and reStructuredText pages: files that are there, headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_MARKDOWN = re.compile(r"\]\(([^)\s]+)\)|<(?:img|a)[^>]*?(?:src|href)=\"([^\"]+)\"")
_RST = re.compile(r"`[^`<]*<([^>`]+)>`_")


def broken_links(page: Path, root: Path) -> list[str]:
    """Relative links that lead nowhere, or out of the repository."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        links = [one or other for one, other in _MARKDOWN.findall(_CODE.sub(_keep_label, text))]
    else:
        links = _RST.findall(text)
    return [link for link in links if not re.match(r"[a-z]+:", link) and not _resolves(page, link, root)]


def _keep_label(code: re.Match) -> str:
    return "" if code[0].startswith("```") else "code"


def _resolves(page: Path, link: str, root: Path) -> bool:
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page.resolve()
    if not target.exists() or not target.is_relative_to(root.resolve()):
        return False
    return not anchor or (target.suffix == ".md" and anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub names them: lower case, without punctuation, spaces as hyphens."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: list[str] = []
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return set(names)
