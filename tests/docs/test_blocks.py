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


# The checks themselves


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pyterrier-rescale trian a b c", "trian"),
        ("pyterrier-rescale train a b c --no-such-option", "no-such-option"),
        ("pyterrier-rescale train a b c --max-steps many", "integer"),
        ("pyterrier-rescale train a b c --set no_such_option=1", "no_such_option"),
        ("pyterrier-rescale export a", "output|OUTPUT|out|OUT"),
        ("python notebooks/no_such_script.py", "no_such_script"),
        ("python experiments/speed/run.py encode --no-such-option", "no-such-option"),
        ("true && pyterrier-rescale dmeo", "true|dmeo"),
        ("pip install -e '.[no-such-extra]'", "no-such-extra"),
        ("no-such-command x", "no-such-command"),
    ],
)
def test_a_line_that_would_fail_is_seen(line, message):
    with pytest.raises(Exception, match=message):
        commands.check_line(line)


def test_blocks_and_their_reasons_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nx = 1\n```\n\n<!-- not run: needs a hub -->\n```bash\ny\n```\n")
    assert [(b.line, b.language, b.code, b.reason) for b in blocks(page)] == [
        (4, "python", "x = 1\n", None), (9, "bash", "y\n", "needs a hub"),
    ]  # fmt: skip
    page = tmp_path / "page.rst"
    page.write_text(
        "A\n=\n\n.. code-block:: python\n\n   x = 1\n\n   y = 2\n\ntext\n\n.. not run: needs a hub\n\n"
        ".. code-block:: bash\n\n   z\n"
    )
    assert [(b.line, b.language, b.code, b.reason) for b in blocks(page)] == [
        (6, "python", "x = 1\n\ny = 2\n", None), (16, "bash", "z\n", "needs a hub"),
    ]  # fmt: skip
    page.write_text("A\n=\n\nSo::\n\n   x = 1\n")
    with pytest.raises(ValueError, match="names no language"):
        blocks(page)


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# Some `code`, and words\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#some-code-and-words) [c](#here) ![d](none.png)\n"
        "[e](other.md#none) [f](#none) [g](https://example.org/x)\n"
    )
    assert broken_links(page, tmp_path) == ["none.png", "other.md#none", "#none"]
