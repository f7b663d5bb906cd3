"""Code and links of the pages: Python runs, shell lines are parsed, the rest carries its reason; links resolve."""

from __future__ import annotations

import linecache
import os

import commands
import pytest
import stand_ins
import tiny
from blocks import blocks
from links import broken_links

ROOT = commands.ROOT
PT_DOCS = ROOT / "pyterrier_rescale" / "pt_docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "README.md", *sorted(PT_DOCS.glob("*.rst"))]
SHELL = ("bash", "shell", "sh")
BLOCKS = [block for page in PAGES for block in blocks(page)]
TO_RUN = {page: [b for b in BLOCKS if b.page == page and b.language == "python" and b.reason is None] for page in PAGES}
# the repository's own, not what its commands leave in the clone (demo/, runs/)
FOLDERS = ("pyterrier_rescale", "experiments", "notebooks", "tests")
TEXTS = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")
                               if path.suffix in (".md", ".rst"))]  # fmt: skip


def place(block):
    return f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=place)
def test_every_block_is_run_parsed_or_says_why_not(block):
    if block.reason is not None:
        assert len(block.reason) >= 10, "a reason that a reader understands"
    elif block.language in SHELL:
        for line in block.code.replace("\\\n", " ").splitlines():
            commands.check_line(line)
    else:
        assert block.language == "python", f"nothing runs {block.language!r}: mark the block with `not run: REASON`"
        compile(block.code, place(block), "exec")


@pytest.mark.parametrize("page", [page for page, found in TO_RUN.items() if found], ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    from pyterrier_rescale.training.losses import LOSSES
    from pyterrier_rescale.training.regularizers import REGULARIZERS

    names = {"__name__": page.stem, **stand_ins.prepare(tmp_path, monkeypatch)}
    added = {id(registry): set(registry) for registry in (LOSSES, REGULARIZERS)}
    try:
        for block in TO_RUN[page]:
            code = "\n" * (block.line - 1) + block.code  # a traceback shows the page's line
            linecache.cache[str(page)] = (len(code), None, code.splitlines(keepends=True), str(page))
            exec(compile(code, str(page), "exec"), names)
    finally:
        linecache.cache.pop(str(page), None)
        for registry in (LOSSES, REGULARIZERS):
            for name in set(registry) - added[id(registry)]:
                del registry[name]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: os.fspath(path.relative_to(ROOT)))
def test_links_resolve(text):
    assert broken_links(text, ROOT) == []


def test_windows_of_the_how_to_cover_texts_without_spaces(tmp_path):
    """Cut by words, a Chinese text would be one window, of which the encoder reads the beginning."""
    (code,) = (block.code for block in TO_RUN[PT_DOCS / "how-to.rst"] if "def windows(" in block.code)
    start = code.index("def windows(")
    names = {"tokenizer": tiny.tokenizer()}
    exec(code[start : code.index("\n\n", start)], names)
    text = "稀疏检索使用倒排索引。" * 100
    documents = [{"docno": "d", "text": text}, {"docno": "e", "text": ""}]
    found = [window["text"] for window in names["windows"](documents)]
    assert found[-1] == "" and all(0 < len(names["tokenizer"].tokenize(part)) <= 250 for part in found[:-1])
    assert found[0] == text[: len(found[0])] and text.endswith(found[-2])
    assert sum(map(len, found)) >= len(text)
