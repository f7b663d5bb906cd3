"""The report is one page that needs nothing else, shows what the tables hold, and lets no document's text act."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy import stats
from sentences import Sentences

from pyterrier_rescale import compare
from pyterrier_rescale.evaluation.figures import conclusion
from pyterrier_rescale.evaluation.report import confidence_interval

# What would run if it were not escaped.
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return compare(
        Sentences([f"{text} {HOSTILE}" for text in tiny.TEXTS]), {"bert": tiny.save("bert", folder / "bert")},
        folder / "out", rescalings=[None, "4"], max_length=32, verbose=False, say=lambda _: None,
        training={"max_steps": 2, "batch_size": 4, "ramp_steps": 100, "monitor": "warn", "save_steps": 0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(comparison):
    return comparison.output_dir / "report.html"


def test_page_is_whole_small_and_needs_no_network(comparison, page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3_000_000
    elsewhere = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text)
    assert not elsewhere, "nothing is loaded from elsewhere"
    for name, mean in zip(comparison.results["name"], comparison.results["nDCG@10"], strict=True):
        assert name in text and f"{mean:.3f}" in text
    assert "Holm-corrected" in text and "seed = 0" in text and "torch" in text
    assert comparison.report() == page and page.read_text(encoding="utf-8") == text, "made again, it is the same"
    assert str(comparison.output_dir.parent) not in text, "no folder of this machine"


def test_texts_are_escaped_and_figures_told(page):
    class Tags(HTMLParser):
        found: list[tuple[str, dict]] = []

        def handle_starttag(self, tag, attributes):
            self.found.append((tag, dict(attributes)))

    text = page.read_text(encoding="utf-8")
    Tags().feed(text)
    assert not [tag for tag, _ in Tags.found if tag in ("script", "img", "iframe", "object")]
    assert "&lt;script&gt;window.hacked=1" in text, "the document is shown as it reads"
    figures = [attributes for tag, attributes in Tags.found if tag == "figure"]
    assert len(figures) >= 3 and all(len(a.get("aria-label", "")) > 20 for a in figures)
    assert sum(tag == "svg" for tag, _ in Tags.found) == len(figures)


def test_conclusion_follows_the_table():
    """Also where the raw head ends ahead of the rescaled one."""
    rows = [
        ("BM25", None, None, 0.6, np.nan), ("bert raw (untrained)", False, None, 0.1, np.nan),
        ("bert k=16 (untrained)", False, "bert raw (untrained)", 0.2, 0.01), ("bert raw", True, None, 0.5, np.nan),
        ("bert k=16", True, "bert raw", 0.3, 0.01), ("bert k=4", True, "bert raw", 0.4, 0.2),
        ("BM25 + bert raw", None, "BM25", 0.7, 0.04),
    ]  # fmt: skip
    results = pd.DataFrame(rows, columns=["name", "trained", "against", "nDCG@10", "p nDCG@10"]).assign(active_d=1234.5)
    best, fused, rescaled, _ = conclusion(results)
    assert "bert raw ranks best: nDCG@10 0.500, with 1,234 terms" in best and "has 0.600" in best
    assert fused.endswith("BM25 (p < .05), better: BM25 + bert raw.")
    assert rescaled.endswith("the raw head (p < .05), worse: bert k=16; not told apart: bert k=4.")


def test_interval_is_students():
    values = pd.Series(np.random.default_rng(0).random(30))
    half = stats.t.ppf(0.975, 29) * values.std(ddof=1) / np.sqrt(30)
    assert confidence_interval(values) == pytest.approx((values.mean() - half, values.mean() + half))
    assert confidence_interval(pd.Series([0.5, 0.5])) == (0.5, 0.5) and confidence_interval(pd.Series([1.0])) == (1, 1)
    assert confidence_interval(pd.Series([1.0, 1.0, 0.4]))[1] == 1.0
