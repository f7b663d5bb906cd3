"""The notebooks are those of their sources; solutions pass, and what a student has not answered fails its check."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((FOLDER / "source").glob("*.py"))


def build():
    pytest.importorskip("jupytext", reason="the package jupytext (extra teach) is not installed")
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notebooks_are_those_of_the_sources():
    books = build().books()
    assert len(books) == 2 * len(SOURCES) == 8
    on_disk = {path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert on_disk == set(books), "run python notebooks/build.py"
    for path, text in books.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is not of its source: python notebooks/build.py"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_two_exercises_each_without_their_answers(source):
    text = source.read_text(encoding="utf-8")
    student = build().notebook(text, solved=False)
    assert text.count("BEGIN SOLUTION") == text.count("END SOLUTION") == 2
    cells = ["".join(cell["source"]) for cell in json.loads(student)["cells"]]
    blanks = [cell for cell in cells if "raise NotImplementedError" in cell]
    assert len(blanks) == 2 and "SOLUTION" not in student
    for number in (1, 2):
        assert any(f'"exercise {number}: right' in cell for cell in cells)
    answers = [part.split("### END")[0].strip() for part in text.split("### BEGIN SOLUTION")[1:]]
    assert not any(line.strip() in cell for answer in answers for line in answer.splitlines() if "return" in line
                   for cell in blanks)  # fmt: skip


def run(path: Path):
    nbclient = pytest.importorskip("nbclient", reason="the package nbclient (extra teach) is not installed")
    import nbformat

    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_solution_passes_and_unanswered_version_fails_its_check(source, tmp_path, monkeypatch):
    import nbclient.exceptions

    monkeypatch.chdir(tmp_path)
    run(FOLDER / "solutions" / f"{source.stem}.ipynb")
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        run(FOLDER / f"{source.stem}.ipynb")
    assert (caught.value.ename, caught.value.evalue) == ("NotImplementedError", "your answer")
    assert "exercise 1" in caught.value.traceback or "assert" in str(caught.value), "it fails at its first check"
