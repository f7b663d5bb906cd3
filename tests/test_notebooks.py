"""The notebooks are those of their sources; solutions pass, wrong answers are named, empty ones stop nothing."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((FOLDER / "source").glob("[0-9]*.py"))
# Plausible wrong answers to each function that is asked for, and a word of what the check says of it.
WRONG = {
    "splade_weights": {
        "torch.log1p(torch.relu(logits.max(dim=0)))": "take .values",
        "torch.log(torch.relu(logits.max(dim=0).values))": "log1p",
        "torch.relu(logits.max(dim=0).values)": "the logarithm is missing",
        "torch.log1p(torch.relu(logits.mean(dim=0)))": "mean over the positions",
        "torch.log1p(torch.relu(logits)).sum(dim=0)": "sum over the positions",
        "torch.log1p(torch.relu(logits.max(dim=1).values))": "over which dimension",
        "torch.log1p(logits.max(dim=0).values.abs())": "torch.relu",
    },
    "level_for": {
        "float(torch.quantile(pooled, share))": "the other side",
        "float(torch.quantile(pooled, 0.9))": "does not use `share`",
        "float(pooled.max() * (1 - share))": "need not be spread evenly",
        "torch.topk(pooled, int(share * len(pooled))).values": "one number",
    },
    "saturation": {
        "scores.softmax(dim=1).max(dim=1).mean()": "take .values",
        "float(scores.softmax(dim=0).max(dim=1).values.mean())": "over each row",
        "float(scores.softmax(dim=1).mean())": "its largest value",
        "float(scores.softmax(dim=1).max())": "mean over the queries",
        "float(scores.max(dim=1).values.mean())": "of the softmax",
        "scores.softmax(dim=1).max(dim=1).values": "one number",
    },
    "divided_head": {
        "head(t, weight / k, bias)": "b is not",
        "head(t, weight, bias / k)": "W is not",
        "head(t / k, weight / k, bias / k**2)": "divided twice",
        "head(t, weight, bias) * k": "do not multiply",
        "head(t, weight / 16, bias / 16)": "does not use `k`",
    },
    "term_shifts": {
        "np.quantile(pooled, 0.97, axis=0)": "does not use `rate`",
        "np.quantile(pooled, 1 - rate, axis=1)": "along which axis",
        "np.quantile(pooled, rate, axis=0)": "the other side",
        "pooled.max(axis=0) * (1 - rate)": "a quantile of each column",
    },
    "contributions": {
        "sum(query[term] * document[term] for term in query.keys() & document.keys())": "return a dict",
        "{t: query.get(t, 0) * document.get(t, 0) for t in query.keys() | document.keys()}": "and no others",
        "{term: query[term] + document[term] for term in query.keys() & document.keys()}": "take their product",
        "{term: query[term] for term in query.keys() & document.keys()}": "the product of both",
    },
    "holm": {
        "[min(1, len(p_values) * p) for p in p_values]": "Bonferroni",
        "list(multipletests(p_values, method='fdr_bh')[1])": "Benjamini",
        "[min(1, (len(p_values) - sorted(p_values).index(p)) * p) for p in p_values]": "fell below an earlier one",
        "sorted(multipletests(p_values, method='holm')[1])": "old place",
        "[(1 + sorted(p_values).index(p)) * p for p in p_values]": "the wrong way",
        "[0.06, 0.03, 0.06][:len(p_values)]": "as statsmodels says",
    },
    "mixture": {
        "weight * first + (1 - weight) * second": "are both normalised",
        "(1 - weight) * normalised(first) + weight * normalised(second)": "the wrong way round",
        "0.5 * normalised(first) + 0.5 * normalised(second)": "does not use `weight`",
        "normalised(weight * first + (1 - weight) * second)": "not the sum",
    },
    "repeated": {
        "[row.docno for row in table.itertuples() if row.title in row.text]": "without its capital",
        "[row.docno for row in table.itertuples() if row.title.lower() == row.text.lower()]": "not all of it",
        "[r.docno for r in table.itertuples() if r.text.lower().startswith(r.title.lower())]": "in the middle",
        "[r.docno for r in table.itertuples() if set(r.title.lower().split()) <= set(r.text[:-1].lower().split())]":
            "not the title as it is",
        "[i for i, row in enumerate(table.itertuples()) if row.title.lower() in row.text.lower()]": "not positions",
    },
    "success_at": {
        "float((results.merge(qrels, on=['qid', 'docno'])['rank'] <= k).sum() / len(qrels))": "ranks begin with 0",
        "results.merge(qrels, on=['qid', 'docno']).query('rank < @k').shape[0] / results.qid.nunique()": "q4 has no",
        "results.merge(qrels, on=['qid', 'docno']).query('rank < @k').shape[0] / len(results)": "of the rows",
        "results.merge(qrels, on=['qid', 'docno']).query('rank < @k').shape[0]": "divide by all of them",
        "results.merge(qrels, on=['qid', 'docno']).query('rank < 2').shape[0] / len(qrels)": "does not use `k`",
    },
    "flops": {
        "weights.square().mean(dim=0).sum()": "L2",
        "weights.mean(dim=0).sum().square()": "square each",
        "weights.mean(dim=0).square()": "one number",
        "torch.tensor(2.0) + 0 * weights.sum()": "gradient",
    },
    "smallest_k": {
        "next(k for k in ks if (scores / k**2).softmax(1).max(1).values.mean() <= limit)": "look for the smallest",
        "next((k for k in sorted(ks) if (scores / k).softmax(1).max(1).values.mean() <= limit), None)": "k * k",
        "8 if len(ks) == 5 else None": "other scores",
    },
    "ndcg": {
        "sum(g / np.log2(2 + i) for i, g in enumerate(labels[:k]))": "that is DCG",
        "sum(g / np.log2(2 + i) for i, g in enumerate(labels)) / (sum(g / np.log2(2 + i) for i, g in "
        "enumerate(judged)) or 1)": "sort it",
        "{3: 0.387, 0: 0}.get(sum(judged) and len(judged), 1 if labels[0] == 2 else 0.86)": "ir_measures",
    },
    "randomisation_p": {
        "__import__('scipy.stats').stats.ttest_rel(a, b).pvalue": "alike",
        "(1 + sum(((s * (a - b)).mean() >= (a - b).mean() - 1e-12) for s in np.random.default_rng(seed)"
        ".choice([-1, 1], (rounds, len(a))))) / (1 + rounds)": "both sides",
        "1.0 if np.allclose(a, b) else 0.001": "1,024",
    },
}  # fmt: skip


def builder():
    pytest.importorskip("jupytext", reason="the package jupytext (extra teach) is not installed")
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notebooks_are_those_of_the_sources():
    build = builder()
    books = build.books()
    assert len(books) == 2 * len(SOURCES) + 2 == 12
    on_disk = {path for path in build.TEACHING.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert on_disk == set(books), "run python notebooks/build.py"
    for path, text in books.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is not of its source: python notebooks/build.py"
    for source in SOURCES:
        student = books[build.TEACHING / f"{source.stem}.ipynb"]
        assert student.count("...  # your answer") == student.count('"raises-exception"') == 2
        assert "SOLUTION" not in student


@pytest.mark.parametrize("beside", ["nothing", "clone"])
def test_first_cell_installs_where_the_package_is_missing(beside, tmp_path):
    """A clone's folder beside a notebook has the package's name, and Python imports it as an empty package."""
    if beside == "clone":
        (tmp_path / "pyterrier_rescale" / "pyterrier_rescale").mkdir(parents=True)
        (tmp_path / "pyterrier_rescale" / "setup.cfg").touch()
    stub = "import subprocess; subprocess.run = lambda command, check: print(command[-1])\n"
    for hide in ("import sys; sys.path = [p for p in sys.path if 'rescale' not in p]\nsys.meta_path = [f for f in "
                 "sys.meta_path if 'editable' not in str(f)]\n", ""):  # fmt: skip
        code = stub + hide + builder().FIRST_CELL
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              env={"PATH": "", "PYTHONPATH": "" if hide else str(FOLDER.parent)})  # fmt: skip
        if hide:
            assert done.stdout.strip() == ("./pyterrier_rescale" if beside == "clone" else "pyterrier-rescale")
            assert done.returncode == 1 and "Restart the kernel" in done.stderr
        elif beside == "nothing":
            assert (done.stdout, done.returncode) == ("", 0), done.stderr


def functions(code: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef) and node.name in WRONG]


@pytest.mark.slow
@pytest.mark.parametrize("source", [*SOURCES, FOLDER / "source" / "assignment.py"], ids=lambda path: path.stem)
def test_solutions_pass_and_wrong_answers_are_named(source, tmp_path, monkeypatch):
    """Each check cell is run with every wrong answer, with none, and with the right one."""
    import jupytext

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    build, names, asked, answers = builder(), {"__name__": "notebook"}, None, 0
    for cell in jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells:
        if cell.cell_type != "code":
            continue
        found = [node for node in functions(cell.source) if "BEGIN SOLUTION" in cell.source]
        exec(build.SOLUTION.sub(r"\2", cell.source), names)
        if found:
            asked, checks = found[0], []
            continue
        if asked and "assert " in cell.source:
            checks.append(cell.source)
            if source.stem == "assignment" and len(checks) < 2:
                continue  # the hidden tests follow
            right = names[asked.name]
            wrong = {**WRONG[asked.name], "None": "nothing" if source.stem != "assignment" else ""}
            assert len(wrong) >= 4
            for answer, word in wrong.items():
                exec(f"def {asked.name}({ast.unparse(asked.args)}):\n    return {answer}", names)
                with pytest.raises(AssertionError) as caught:
                    for check in checks:
                        exec(check, names)
                assert word in str(caught.value), f"{asked.name}, {answer}: {caught.value}"
                answers += 1
            names[asked.name], asked = right, None
    assert answers >= 8


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_unanswered_exercises_stop_nothing_else(source, tmp_path):
    """As Jupyter runs all cells: the checks of both exercises say what is missing, every other cell runs."""
    nbclient = pytest.importorskip("nbclient", reason="the package nbclient (extra teach) is not installed")
    import nbformat

    book = nbformat.read(builder().TEACHING / f"{source.stem}.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=place).execute()
    errors = [output for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert len(errors) == 2 and all("returns nothing yet: write your answer" in error.evalue for error in errors)
