"""Tables and figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..analysis.plots import blank_figure, log_axis

if TYPE_CHECKING:
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
- p: paired t-test on nDCG@10, Holm-corrected, against the raw head of the same backbone; of a fusion and of an encoder
  that was given, against BM25. Small: not the topics' luck.
- terms/query, terms/doc: weights above zero; fewer make a smaller and quicker index. BM25 is Terrier's, rows without
  training are of the exact engine."""
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#6f4a8e", "#7d8597")
_GREY = "#828a96"  # seen on white and on black


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


def conclusion(results: pd.DataFrame) -> list[str]:
    """What the table says, in a few sentences."""
    values, trained = results.set_index("name")["nDCG@10"], results[results["trained"].eq(True)]
    best, bm25 = trained.loc[trained["nDCG@10"].idxmax()], values["BM25"]
    told = [
        f"Of the trained encoders, {best['name']} ranks best: nDCG@10 {best['nDCG@10']:.3f}, with "
        f"{best['active_d']:,.0f} terms per document; BM25, which needs no model, has {bm25:.3f}."
    ]
    tested = results[results["against"].notna() & ~results["trained"].eq(False)]
    for beside, rows in tested.groupby(tested["against"].where(tested["against"] == "BM25", "the raw head")):
        higher, sure = rows["nDCG@10"].to_numpy() > values[rows["against"]].to_numpy(), rows["p nDCG@10"] < 0.05
        groups = {"better": sure & higher, "worse": sure & ~higher, "not told apart": ~sure}
        parts = [f"{group}: {', '.join(rows['name'][which])}" for group, which in groups.items() if which.any()]
        told.append(f"Compared with {beside} (p < .05), {'; '.join(parts)}.")
    return [*told, "Each is one training run: with another seed, figures that lie close may change places."]


def draw_figures(comparison: Any, backbones: dict[str, str]) -> None:
    """Draw head norms, training dynamics and effectiveness against active terms, each as PNG and SVG."""
    from ..analysis.head_audit import audit

    folder = comparison.output_dir / "figures"
    folder.mkdir(exist_ok=True)
    drawn = {"effectiveness": effectiveness(comparison)}
    if backbones:
        drawn |= {"head_norms": audit(backbones).plot(), "training": training_curves(comparison)}
    for name, figure in drawn.items():
        for ending in ("png", "svg"):
            figure.savefig(folder / f"{name}.{ending}", dpi=150, bbox_inches="tight")


#: Columns of ``monitor.csv`` -> titles of the panels of :func:`training_curves`.
TRAINING_PANELS = {
    "loss": "training loss",
    "score_std": "std of in-batch scores",
    "active_d": "active terms per document",
}


def training_curves(comparison: Any, columns: Sequence[str] = tuple(TRAINING_PANELS)) -> Figure:
    """Figures of all training runs over their steps, a panel each: by default loss, score spread and active terms."""
    figure, axes = blank_figure(4.6 * len(columns), 3.4, len(columns))
    for name, style in _styles(comparison.results).items():
        log = comparison.output_dir / "encoders" / name / "monitor.csv"
        if not log.exists():  # of a row that was not trained
            continue
        steps = pd.read_csv(log)
        for axis, column in zip(axes.flat, columns, strict=True):
            shown = steps[["step", column]].dropna()
            smooth = shown[column].rolling(max(1, len(shown) // 40), min_periods=1).mean()
            axis.plot(shown["step"], smooth, label=name, color=style["color"], linestyle=style["linestyle"])
    for axis, column in zip(axes.flat, columns, strict=True):
        axis.set(xlabel="step", title=TRAINING_PANELS[column])
        log_axis(axis, "y")
    _finish(figure, axes)
    return figure


def effectiveness(comparison: Any) -> Figure:
    """NDCG@10 against active terms per document; rows without a model as crosses, BM25 as a line."""
    figure, axes = blank_figure(5.4, 4.0)
    axis, results, styles = axes[0, 0], comparison.results, _styles(comparison.results)
    for row in results[results["active_d"].notna()].to_dict("records"):
        style = styles.get(row["name"], {"marker": "x", "color": _GREY})
        face = style["color"] if row["trained"] or style["marker"] == "x" else "none"
        axis.plot(
            max(row["active_d"], 1), row["nDCG@10"], style["marker"], color=style["color"], markerfacecolor=face,
            label=row["name"] if row["name"] in styles else "no model", zorder=3,
        )  # fmt: skip
    bm25 = results.loc[results["name"] == "BM25", "nDCG@10"].iloc[0]
    axis.axhline(bm25, color=_GREY, linewidth=1, linestyle=":", label="BM25")
    axis.set(xlabel="active terms per document", ylabel="nDCG@10")
    log_axis(axis, "x")
    axis.set_title("filled: after SPLADE training; open: before", fontsize=9)
    _finish(figure, axes)
    return figure


def _styles(results: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each row with a backbone: colour by rescaling, line and marker by backbone; the same in all figures."""
    results = results.dropna(subset=["backbone"])
    colours = dict(zip(results["rescale"].unique(), cycle(_COLOURS)))
    lines = dict(zip(results["backbone"].unique(), cycle((("-", "o"), ("--", "s"), (":", "D"), ("-.", "^")))))
    return {
        name: {"color": colours[rescale], "linestyle": lines[backbone][0], "marker": lines[backbone][1]}
        for name, backbone, rescale in results[["name", "backbone", "rescale"]].itertuples(index=False)
    }


def _finish(figure: Figure, axes: Any) -> None:
    """A grid, and one legend below all panels, a line for each label."""
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    columns = 3 if figure.get_figwidth() > 10 else 2
    figure.legend(named.values(), named, loc="outside lower left", frameon=False, fontsize=8, ncols=columns)
