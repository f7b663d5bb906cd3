"""Make the notebooks from their sources: `python notebooks/build.py`.

A source is a script in jupytext's percent format. What stands between BEGIN SOLUTION and END SOLUTION is kept in
`solutions/` and replaced by a line that raises in the students' version beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.S | re.M)
BLANK = r'\1raise NotImplementedError("your answer")' + "\n"


def notebook(source: str, *, solved: bool) -> str:
    """A source as an .ipynb text, with or without its solutions; the same text at every call."""
    text = SOLUTION.sub((lambda found: found.group(2)) if solved else BLANK, source)
    book = jupytext.reads(text, fmt="py:percent")
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.writes(book) + "\n"


def books() -> dict[Path, str]:
    """Every notebook's path and text."""
    made = {}
    for source in sorted((FOLDER / "source").glob("*.py")):
        text = source.read_text(encoding="utf-8")
        made[FOLDER / f"{source.stem}.ipynb"] = notebook(text, solved=False)
        made[FOLDER / "solutions" / f"{source.stem}.ipynb"] = notebook(text, solved=True)
    return made


if __name__ == "__main__":
    for path, text in books().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(FOLDER))
