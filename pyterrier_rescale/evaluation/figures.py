"""Tables and figures of a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..analysis.plots import blank_figure, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Column of the results -> heading and format in printed tables.
_COLUMNS = {
    "name": ("system", "{}"),
    "nDCG@10": ("nDCG@10", "{:.3f}"),
    "p nDCG@10": ("p", None),
    "RR@10": ("RR@10", "{:.3f}"),
    "R@100": ("R@100", "{:.3f}"),
    "AP": ("MAP", "{:.3f}"),
    "active_q": ("terms/query", "{:,.0f}"),
    "active_d": ("terms/doc", "{:,.0f}"),
    "index_mb": ("index MB", "{:.1f}"),
    "ms_per_query": ("ms/query", "{:.1f}"),
    "train_s": ("train s", "{:.0f}"),
}
#: What the columns of the printed table mean.
TABLE_KEY = """How to read the table: a row is a search system, its figures are means over the topics (test queries).
- nDCG@10, RR@10, R@100, MAP: from 0 to 1, more is better. In turn: do relevant documents stand high among the first 10;
  1 / rank of the first one; the share of them that is among the first 100; precision, averaged over their ranks.
- p: paired t-test on nDCG@10 against the raw head of the same backbone, Holm-corrected; small: not the topics' luck.
- terms/query, terms/doc: weights above zero; fewer make a smaller and quicker index. Untrained rows: exact engine."""
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#6f4a8e", "#7d8597")


def format_p(p: float | None) -> str:
    """A p-value for people; empty where there was no test."""
    if p is None or pd.isna(p):
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def table_cells(results: pd.DataFrame) -> list[dict[str, str]]:
    """The results as text, by column, a dict for each row; empty where there is nothing."""
    forms = {key: form for key, (_, form) in _COLUMNS.items() if key in results}
    return [
        {key: format_p(row[key]) if form is None else "" if pd.isna(row[key]) else form.format(row[key])
         for key, form in forms.items()}
        for row in results.to_dict("records")
    ]  # fmt: skip


def markdown_table(results: pd.DataFrame) -> str:
    """The results as a Markdown table; p is Holm-corrected, against the unrescaled twin, on nDCG@10."""
    rows, lines = table_cells(results), [[] for _ in range(len(results) + 2)]
    for number, key in enumerate(rows[0]):
        cells = [_COLUMNS[key][0], *(row[key].replace("|", "\\|") for row in rows)]
        width = max(map(len, cells))
        cells = [cell.rjust(width) if number else cell.ljust(width) for cell in cells]
        cells.insert(1, "-" * (width - 1) + (":" if number else "-"))
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_figures(comparison: Any, backbones: Mapping[str, Any]) -> None:
    """Draw head norms, training dynamics and effectiveness against active terms, each as PNG and SVG."""
    from ..analysis.head_audit import audit

    folder = comparison.output_dir / "figures"
    folder.mkdir(exist_ok=True)
    norms = audit({name: os.fspath(model) for name, model in backbones.items()}).plot()
    drawn = {"head_norms": norms, "training": training_curves(comparison), "effectiveness": effectiveness(comparison)}
    for name, figure in drawn.items():
        for ending in ("png", "svg"):
            figure.savefig(folder / f"{name}.{ending}", dpi=150, bbox_inches="tight")


def _figure(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, Any]:
    figure, axes = blank_figure(width * columns, height * rows, columns, nrows=rows)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    return figure, axes


def _styles(comparison: Any) -> dict[str, dict[str, Any]]:
    """Colour by rescaling, line and marker by backbone: the same in all figures."""
    results = comparison.results.dropna(subset=["backbone"])
    rescalings = list(dict.fromkeys(results["rescale"]))
    backbones = list(dict.fromkeys(results["backbone"]))
    styles = {}
    for _, row in results.iterrows():
        number = backbones.index(row["backbone"])
        styles[row["name"]] = {
            "color": _COLOURS[rescalings.index(row["rescale"]) % len(_COLOURS)],
            "linestyle": ("-", "--", ":", "-.")[number % 4],
            "marker": "osD^"[number % 4],
        }
    return styles


#: Columns of ``monitor.csv`` -> titles of the panels of :func:`training_curves`.
TRAINING_PANELS = {
    "loss": "training loss",
    "score_std": "std of in-batch scores",
    "active_d": "active terms per document",
}


def training_curves(comparison: Any, columns: Sequence[str] = tuple(TRAINING_PANELS)) -> Figure:
    """Figures of all training runs over their steps, a panel each: by default loss, score spread and active terms."""
    figure, axes = _figure(len(columns))
    styles = _styles(comparison)
    results = comparison.results
    for _, row in results[results["trained"].eq(True)].iterrows():
        log = comparison.output_dir / "encoders" / row["name"] / "monitor.csv"
        if not log.exists():
            continue
        steps = pd.read_csv(log)
        style = {key: value for key, value in styles[row["name"]].items() if key != "marker"}
        for axis, column in zip(axes.flat, columns, strict=True):
            if column in steps:
                shown = steps[["step", column]].dropna()
                smooth = shown[column].rolling(max(1, len(shown) // 40), min_periods=1).mean()
                axis.plot(shown["step"], smooth, label=row["name"], **style)
    for axis, column in zip(axes.flat, columns, strict=True):
        axis.set(xlabel="step", title=TRAINING_PANELS[column])
        log_axis(axis, "y")
    _legend(figure, axes[0, 0])
    return figure


def effectiveness(comparison: Any) -> Figure:
    """NDCG@10 against active terms per document; rows without a model as crosses, BM25 as a line."""
    figure, axes = _figure(1, width=5.4, height=4.0)
    axis = axes[0, 0]
    styles = _styles(comparison)
    results = comparison.results
    for _, row in results.dropna(subset=["backbone"]).iterrows():
        style = styles[row["name"]]
        axis.scatter(
            max(row["active_d"], 1), row["nDCG@10"], s=55, marker=style["marker"], edgecolors=style["color"],
            facecolors=style["color"] if row["trained"] else "none", label=row["name"], zorder=3,
        )  # fmt: skip
    plain = results[results["backbone"].isna() & results["active_d"].notna()]
    if len(plain):
        axis.scatter(plain["active_d"], plain["nDCG@10"], s=45, marker="x", color="#444444", label="no model")
    bm25 = results.loc[results["name"] == "BM25", "nDCG@10"].iloc[0]
    axis.axhline(bm25, color="#444444", linewidth=1, linestyle=":", label="BM25")
    axis.set(xlabel="active terms per document", ylabel="nDCG@10")
    log_axis(axis, "x")
    axis.set_title("filled: after SPLADE training; open: before", fontsize=9)
    _legend(figure, axis)
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        columns = 3 if figure.get_figwidth() > 10 else 2
        figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=8, ncols=columns)
