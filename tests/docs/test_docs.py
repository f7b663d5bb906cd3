"""The documentation builds in Sphinx without a warning, and names every public name."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyterrier_rescale

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent.parent / "pyterrier_rescale" / "pt_docs"


def test_builds_without_a_warning(tmp_path):
    """In this process, which holds the heavy imports already."""
    build = pytest.importorskip("sphinx.cmd.build", reason="the package sphinx (extra test) is not installed")
    told = tmp_path / "warnings.txt"
    arguments = ["-b", "html", "-q", "-W", "--keep-going", "-w", told, "-c", HERE, PAGES, tmp_path / "html"]
    assert build.main([str(argument) for argument in arguments]) == 0, told.read_text(encoding="utf-8")
    for page in PAGES.glob("*.rst"):
        html = (tmp_path / "html" / f"{page.stem}.html").read_text(encoding="utf-8")
        drawn = page.read_text(encoding="utf-8").count(".. schematic::")
        assert html.count('class="pts-') >= drawn
    api = (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
    for name in {*pyterrier_rescale.__all__, *CLASSES} - {"__version__"}:
        assert f'id="pyterrier_rescale.{name}"' in api, f"api.rst does not show {name}"


# Classes that users hold in their hands, made by functions and methods of the package.
CLASSES = (
    "Splade", "LexicalEncoder", "Vectors", "HeadAudit", "Calibration", "CollapseError",
    "splade.stages.SpladeDocEncoder", "splade.stages.SpladeQueryEncoder", "splade.stages.SpladeScorer",
    "splade.explanation.Explanation", "analysis.head_audit.HeadAudits", "training.TrainConfig",
    "indexing.index.Index", "indexing.roles.Indexer", "indexing.roles.Retriever",
    "indexing.engines.seismic.SeismicEngine", "indexing.rescoring.VectorScorer", "indexing.rescoring.VectorFeedback",
    "collections.Collection", "evaluation.comparison.Comparison",
)  # fmt: skip
