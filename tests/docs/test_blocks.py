"""Code and links of the pages: Python runs, shell lines are parsed, the rest carries its reason; links resolve."""

from __future__ import annotations

import linecache
import os

import commands
import pytest
import stand_ins
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
