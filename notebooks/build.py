"""Make the notebooks, the slides and the assignment from their sources: `python notebooks/build.py`.

A source is a script in jupytext's percent format. What stands between BEGIN SOLUTION and END SOLUTION is kept for
lecturers and replaced by a blank in the students' version. The results lie in the package, so that a wheel has them.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
TEACHING = FOLDER.parent / "pyterrier_rescale" / "teaching"
ASSIGNMENT = "lecturer/source/assignment/assignment.ipynb"  # where nbgrader looks for it, in the course folder lecturer
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.S | re.M)
FIRST_CELL = '''\
# Run this cell first. It does something only where the package is missing, as on Colab, Kaggle and Binder.
try:
    from pyterrier_rescale import Splade
except ImportError:
    import subprocess
    import sys
    from pathlib import Path

    clone = Path("pyterrier_rescale/setup.cfg").exists()  # a clone of the project beside this notebook
    source = "./pyterrier_rescale" if clone else "pyterrier-rescale"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)
    raise SystemExit("Installed. Restart the kernel (Colab: Runtime > Restart session), and run all cells again.")'''


def badges(name: str, repository: str) -> str:
    """A line of Markdown with links that open a notebook on Colab, Kaggle and Binder; none without a repository."""
    if not repository:
        return ""
    owner_and_name, path = repository.removeprefix("https://github.com/"), f"pyterrier_rescale/teaching/{name}"
    links = {
        "Colab": f"https://colab.research.google.com/github/{owner_and_name}/blob/main/{path}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src={repository}/blob/main/{path}",
        "Binder": f"https://mybinder.org/v2/gh/{owner_and_name}/main?labpath={path}",
    }
    return "Open in " + ", ".join(f"[{site}]({link})" for site, link in links.items()) + ".\n\n"


def repository() -> str:
    """The project's address at GitHub: ``Source`` of setup.cfg's ``project_urls``; empty where it has none."""
    config = configparser.ConfigParser()
    config.read(FOLDER.parent / "setup.cfg")
    found = re.search(r"^Source *= *(\S+)", config["metadata"].get("project_urls", ""), re.M)
    return found[1] if found else ""


def notebook(source: Path, *, solved: bool) -> str:
    """A source as an .ipynb text, with or without its solutions; the same text at every call."""
    text = source.read_text(encoding="utf-8")
    text = SOLUTION.sub(r"\2" if solved else r"\1...  # your answer" + "\n", text)
    title, *cells = [cell for cell in jupytext.reads(text, fmt="py:percent").cells if "slide-only" not in tags(cell)]
    title["source"] = badges(f"{source.stem}.ipynb", repository()) + title["source"]
    for cell in cells:
        if not solved and re.search(r'print\(f?"exercise', cell["source"]):
            cell.metadata["tags"] = ["raises-exception"]  # without an answer the rest runs all the same
    return written([title, nbformat.v4.new_code_cell(FIRST_CELL), *cells])


def slides(sources: list[Path]) -> str:
    """The cells tagged as slides, one a page, for ``jupyter nbconvert --to slides``."""
    books = [jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent") for source in sources]
    cells = [cell for book in books for cell in book.cells if {"slide", "slide-only"}.intersection(tags(cell))]
    for cell in cells:
        cell.metadata = {"slideshow": {"slide_type": "slide"}}
    return written(cells)


def assignment(source: Path) -> str:
    """The lecturer's version for nbgrader: solutions and hidden tests are marked, cells with points are graded."""
    book = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    for number, cell in enumerate(book.cells):
        points, solution = cell.metadata.pop("points", None), "### BEGIN SOLUTION" in cell["source"]
        if points or solution:
            cell.metadata["nbgrader"] = {
                "schema_version": 3, "grade_id": f"cell-{number}", "cell_type": cell["cell_type"],
                "grade": bool(points), "solution": solution, "locked": not solution, "task": False,
                **({"points": points} if points else {}),
            }  # fmt: skip
    return written(book.cells)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def written(cells: list[nbformat.NotebookNode]) -> str:
    """A notebook of these cells, as text."""
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel)) + "\n"


def books() -> dict[Path, str]:
    """Every notebook's path and text."""
    sources = sorted((FOLDER / "source").glob("[0-9]*.py"))
    made = {TEACHING / f"{source.stem}.ipynb": notebook(source, solved=False) for source in sources}
    made |= {
        TEACHING / "lecturer" / "solutions" / f"{source.stem}.ipynb": notebook(source, solved=True)
        for source in sources
    }
    made[TEACHING / "lecturer" / "slides.ipynb"] = slides(sources)
    made[TEACHING / ASSIGNMENT] = assignment(FOLDER / "source" / "assignment.py")
    return made


if __name__ == "__main__":
    for path, text in books().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(TEACHING))
