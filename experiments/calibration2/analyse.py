"""Tables of the second study from its results: ``python experiments/calibration2/analyse.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from crossed import difference
from data import UNSEEN
from run import HERE, existing, finished
from runs import ARMS, DISTILLED, MASKED, QUERY_IDF, RATES, STARTS
from verdicts import said

from pyterrier_rescale.evaluation.experiment import holm

#: Fields that tell one system from another; seeds and topics are what is averaged over.
SYSTEM = ("backbone", "collection", "start", "recipe", "steps", "rate", "penalty", "ramp", "batch_size", "shift",
          "position_top_k", "fold")  # fmt: skip

#: What the test topics are asked.
FIRST, RAMPS = "first steps", "ramps and batch sizes"
GROUPS = ("starts", "arms, trained", "options of encoders", "rivals, steps, densities", FIRST, RAMPS, DISTILLED, MASKED)

#: The arms in words.
OFFSETS = {
    "A": "a quantile per term (`calibrate`)", "B": "A's fit on log p", "C": "what that fit leaves",
    "D": "A's, shuffled within deciles of frequency", "E": "-log df, without a forward pass",
    "F": "the mean logit per term", "G": "the head's bias zeroed", "G0": "the head's bias as it is",
    "H": "as it is, 12 logits per position", "I": "a shift and a scale per term", "J": "k=16, IDF on queries",
    "Jm": "IDF on queries, as many terms as A",
}  # fmt: skip


def load(*paths: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    """A row per run and scored collection, and the other rows by id; of a run in several files that of the first."""
    lines, others = [], {}
    rows: dict[str, dict] = {}
    for path in paths:
        rows = finished(path) | rows
    for name, row in rows.items():
        if "run" not in row:
            others[name] = row
            continue
        for scored, figures in row["scores"].items():
            flat = {**row["run"], "k": row["k"], "warnings": len(row["warnings"]), "scored": scored}
            flat["said"] = said(row["audit"]) if "audit" in row else ""
            fused = figures.get("fused", {})
            lines.append({**flat, **{k: v for k, v in figures.items() if k != "fused"},
                          "fused": fused.get("ndcg"), "fused_per_query": fused.get("per_query")})  # fmt: skip
    return pd.DataFrame(lines), others


def markdown(lines: list[dict[str, Any]]) -> str:
    """A table of rows."""
    if not lines:
        return "(no runs yet)"
    columns = list(dict.fromkeys(column for line in lines for column in line))
    rows = [[str(line.get(column, "")) for column in columns] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *rows])


def system_name(row: Any) -> str:
    """What differs from a plain run of 120 steps."""
    plain = {"recipe": "plain", "steps": 120, "rate": 0.03, "penalty": 1.0, "batch_size": 16}
    changed = []
    for name in SYSTEM[3:]:
        value = row[name]
        if value is not None and not (isinstance(value, float) and np.isnan(value)) and value != plain.get(name):
            changed.append(f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}")
    return ", ".join([row["start"], *changed])


def rates(table: pd.DataFrame) -> str:
    """Block 1 and the other grids: nDCG@10 on held-out pairs by learning rate, and terms per document.

    The best rate stands where both its neighbours, as far as there are any, have been tried.
    """
    if table.empty:
        return markdown([])
    grid = table[table["topics"] == "held-out"].copy()
    lines = []
    for (backbone, collection), cell in grid.groupby(["backbone", "collection"], sort=False):
        cell = cell.assign(system=cell.apply(system_name, axis=1))
        for system, rows in cell.groupby("system", sort=False):
            values, active = (rows.set_index("learning_rate")[column] for column in ("ndcg", "active_d"))
            line = {"backbone": backbone, "collection": collection, "start": system}
            line |= {
                f"{rate:g}": f"{values[rate]:.3f} ({active[rate]:,.0f})" if rate in values.index else ""
                for rate in RATES
            }
            place = RATES.index(values.idxmax())
            between = set(RATES[max(0, place - 1) : place + 2]) <= set(values.index)
            lines.append(line | {"best": f"{RATES[place]:g}" if between else ""})
    return markdown(lines)


def finals(table: pd.DataFrame, others: dict[str, dict], against: str = "calibrated") -> str:
    """Test topics, a table per question: means and spreads over seeds, alone and fused; differences to ``against``."""
    parts = []
    for (backbone, collection), cell in _finished(table):
        for group in dict.fromkeys(cell["group"]):
            own = cell[cell["group"] == group]
            if group in GROUPS[4:]:  # starts among themselves, at equal settings
                if group == RAMPS:  # beside those with the plain ramp and size, of which some are starts
                    own = pd.concat([cell[cell["system"].isin(("raw", "k=2", "k=16", against))], own])
                means = _means(own, collection, watched=group == RAMPS)
                parts.append(f"### {backbone}, trained on {collection}: {group}\n\n{markdown(means)}")
                for _, equal in own.groupby(["steps", "ramp", "batch_size"], sort=False, dropna=False):
                    other = next(iter(equal["system"][equal["start"] == against]), "")
                    parts.append(f"Minus {other}:\n\n{_differences(equal, {}, backbone, collection, other)}")
                continue
            own = cell[(cell["group"] == group) | (cell["system"] == against)]
            free = others if group == GROUPS[0] else {}  # BM25 beside the starts, once
            lines = [*_means(own, collection), *_free(free, backbone, (collection, *UNSEEN))]
            parts.append(f"### {backbone}, trained on {collection}: {group}\n\n{markdown(lines)}")
            parts.append(f"Minus {against}:\n\n{_differences(own, free, backbone, collection, against)}")
            for longer in (name for name in dict.fromkeys(own["system"]) if name.startswith(f"{against}, steps ")):
                equal = own[own["system"].str.endswith(longer.removeprefix(against))]
                parts.append(f"Minus {longer}:\n\n{_differences(equal, {}, backbone, collection, longer)}")
    return "\n\n".join(parts) or markdown([])


def headline(table: pd.DataFrame, others: dict[str, dict]) -> str:
    """What the project's README shows: minilm's starts and the rows without a model, the most telling columns."""
    columns = ("start", "seeds", "lr", "scifact", "scifact + BM25", *UNSEEN, "terms/doc")
    lines = []
    for (backbone, collection), cell in _finished(table):
        if (backbone, collection) == ("minilm", "scifact"):
            lines += [*_means(cell[cell["system"].isin(STARTS)], collection), *_free(others, backbone, columns[3:])]
    return markdown([{name: line.get(name, "") for name in columns} for line in lines])


def offsets(table: pd.DataFrame, others: dict[str, dict]) -> str:
    """What the experiment's README shows: arms minus A, before training (over topics) and trained (seeds, too)."""
    parts = []
    for (backbone, collection), cell in _finished(table):
        start = others.get(f"step0-{backbone}-{collection}")
        if start is not None:
            title = f"{backbone}, trained on {collection}, R² of B {start['facts']['R2 of B']:.3f}:"
            parts.append(f"{title}\n\n{markdown(_offsets(cell, start['scores']))}")
    return "\n\n".join(parts) or markdown([])


def _offsets(cell: pd.DataFrame, start: dict[str, dict]) -> list[dict[str, str]]:
    names = cell["start"].where(cell["recipe"] != QUERY_IDF, "arm J").where(cell["system"] != "calibrated", "arm A")
    cell = cell.assign(system=names)
    lines = []
    for arm, words in OFFSETS.items():
        line = {"arm": arm, "offset": words}
        for scored, figures in start.items():
            own, reference = (_by_seed(cell, f"arm {name}", scored, False) for name in (arm, "A"))
            line[scored] = f"{figures['A']['ndcg']:.3f}" if arm == "A" else _minus(figures, arm, "A")
            if arm == "A":  # against itself before training
                reference = dict.fromkeys(own, np.array(figures["A"]["per_query"]))
            gaps = [own[seed] - reference[seed] for seed in sorted(set(own) & set(reference))]
            told = _signed(difference(np.array(gaps))) if gaps else ""
            gained = f"{np.mean(list(own.values())):.3f}, by training {told}" if gaps and arm == "A" else told
            line[f"{scored}, trained"] = gained
        lines.append(line)
    return lines


def _minus(figures: dict[str, dict], system: str, other: str) -> str:
    """The difference of two systems before training, +- 95% over topics."""
    gap = np.array(figures[system]["per_query"]) - np.array(figures[other]["per_query"])
    return f"{gap.mean():+.3f} ± {1.96 * gap.std(ddof=1) / np.sqrt(len(gap)):.3f}"


def _finished(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Runs scored on test topics by backbone and collection, with the names of their systems, starts in their order."""
    if table.empty:
        return
    for key, cell in table[table["topics"] == "test"].groupby(["backbone", "collection"], sort=False):
        cell = cell.assign(system=cell.apply(system_name, axis=1), group=cell.apply(_group, axis=1))
        names = [*STARTS, *(f"arm {name}" for name in ARMS), *cell["system"]]
        place = {name: number for number, name in enumerate(dict.fromkeys(names))}
        cell = cell.sort_values("system", key=lambda systems: systems.map(place), kind="stable")
        yield key, cell.sort_values("group", key=lambda groups: groups.map(GROUPS.index), kind="stable")


def _group(row: Any) -> str:
    """The question that a run belongs to; each has its own table and its own correction for many tests."""
    if row["start"].startswith("arm ") or row["recipe"] == QUERY_IDF:
        return GROUPS[1]
    if any(pd.notna(row[name]) for name in ("shift", "position_top_k", "fold")):
        return GROUPS[2]
    if row["recipe"] in (DISTILLED, MASKED):
        return row["recipe"]
    if pd.notna(row["ramp"]) or row["batch_size"] != 16:
        return RAMPS
    if row["steps"] < 120:
        return FIRST
    return GROUPS[0] if system_name(row) in STARTS else GROUPS[3]


def _means(cell: pd.DataFrame, collection: str, watched: bool = False) -> list[dict[str, Any]]:
    """A line per system; with ``watched`` also what the monitor and the audit said."""
    lines = []
    for system, rows in cell.groupby("system", sort=False):
        line: dict[str, Any] = {"start": system, "seeds": rows["seed"].nunique()}
        line |= {"lr": f"{rows['learning_rate'].iloc[0]:g}", "k": f"{rows['k'].median():.3g}"}
        for scored, own in rows.groupby("scored", sort=False):
            line[scored] = _spread(own["ndcg"])
            line[f"{scored} + BM25"] = _spread(own["fused"].dropna())
        for scored, own in rows.groupby("scored", sort=False):
            name = "terms/doc" if scored == collection else f"{scored} terms/doc"
            line[name] = f"{own['active_d'].mean():.0f}"
        if watched:
            runs = rows.drop_duplicates("seed")
            line |= {"monitor warned": f"{(runs['warnings'] > 0).sum()} of {len(runs)}"}
            line |= {"audit before": " or ".join(dict.fromkeys(runs["said"]))}
        lines.append(line)
    return lines


def _differences(cell: pd.DataFrame, others: dict[str, dict], backbone: str, collection: str, against: str) -> str:
    """Each system minus ``against`` over topics crossed with seeds: 95% intervals, p Holm-corrected over the table."""
    systems = [name for name in dict.fromkeys(cell["system"]) if name != against]
    lines: dict[str, dict[str, Any]] = {}
    found = {}
    for scored in (collection, *UNSEEN):
        free = others.get(f"free-{backbone}-{scored}", {}).get("rows", {})
        for fused in (False, True):
            column = f"{scored} + BM25" if fused else scored
            reference = _by_seed(cell, against, scored, fused)
            for name in (*systems, *free):
                values = _by_seed(cell, name, scored, fused) if name in systems else _free_topics(free[name], fused)
                seeds = sorted(set(values) & set(reference)) if name in systems else sorted(reference)
                if not seeds:
                    continue
                gaps = [values[seed if name in systems else 0] - reference[seed] for seed in seeds]
                found[name, column] = difference(np.array(gaps))
                lines.setdefault(name, {"start": name, "seeds": len(seeds)})
    tested = [key for key, result in found.items() if not np.isnan(result.p)]
    corrected = dict(zip(tested, holm([found[key].p for key in tested]), strict=True))
    for (name, column), result in found.items():
        lines[name][column] = _interval(result, corrected.get((name, column)))
    return markdown(list(lines.values()))


def _by_seed(cell: pd.DataFrame, system: str, scored: str, fused: bool) -> dict[int, np.ndarray]:
    """Values per topic of a system's seeds."""
    rows = cell[(cell["system"] == system) & (cell["scored"] == scored)]
    values = rows["fused_per_query" if fused else "per_query"]
    return {seed: np.array(own) for seed, own in zip(rows["seed"], values, strict=True) if own is not None}


def _free_topics(figures: dict[str, Any], fused: bool) -> dict[int, np.ndarray]:
    """The same of a model-free row, which has no seeds; BM25 with BM25 added ranks as BM25."""
    return {0: np.array((figures.get("fused", figures) if fused else figures)["per_query"])}


def without_model(others: dict[str, dict]) -> str:
    """Model-free rows on test topics, with each backbone's pieces."""
    names = [name.removeprefix("free-").rsplit("-", 1) for name in others if name.startswith("free-")]
    lines = []
    for backbone in dict.fromkeys(backbone for backbone, _ in names):
        collections = tuple(collection for own, collection in names if own == backbone)
        lines += [{"pieces of": backbone, **line} for line in _free(others, backbone, collections)]
    return markdown(lines)


def _free(others: dict[str, dict], backbone: str, collections: tuple[str, ...]) -> list[dict[str, Any]]:
    lines: dict[str, dict[str, Any]] = {}
    for name in collections:
        for label, figures in others.get(f"free-{backbone}-{name}", {}).get("rows", {}).items():
            line = lines.setdefault(label, {"start": label})
            line[name] = f"{figures['ndcg']:.3f}"
            if "fused" in figures:
                line[f"{name} + BM25"] = f"{figures['fused']['ndcg']:.3f}"
            if "active_d" in figures:
                line.setdefault("terms/doc", f"{figures['active_d']:.0f}")
    return list(lines.values())


def repeats(path: Path, again: Path) -> str:
    """Runs that were carried out on both machines: nDCG@10 and terms per document, the first minus the second."""
    first, second = finished(path), finished(again)
    lines = []
    for name in (name for name in first if name in second and "run" in first[name]):
        run, gaps = first[name]["run"], {}
        for scored, figures in first[name]["scores"].items():
            other = second[name]["scores"][scored]
            gaps[scored] = f"{figures['ndcg']:.3f} - {other['ndcg']:.3f}"
            gaps[f"{scored} terms/doc"] = f"{figures['active_d']:.0f} - {other['active_d']:.0f}"
        lines.append({"backbone": run["backbone"], "start": run["start"], "seed": run["seed"], **gaps})
    return markdown(lines)


def step0(others: dict[str, dict]) -> str:
    """Block 0: arms before training, with R^2 of B; intervals over topics against A."""
    parts = []
    for name, row in others.items():
        if not name.startswith("step0-"):
            continue
        lines = []
        for arm in next(iter(row["scores"].values())):
            line = {"arm": arm, "k": f"{row['k'][arm]:.3g}"}
            for collection, figures in row["scores"].items():
                line[collection] = f"{figures[arm]['ndcg']:.3f}"
                line[f"{collection}: minus A"] = "" if arm == "A" else _minus(figures, arm, "A")
                line[f"{collection} + BM25"] = f"{figures[arm]['fused']['ndcg']:.3f}"
                line[f"{collection} terms/doc"] = f"{figures[arm]['active_d']:.0f}"
            lines.append(line)
        facts = ", ".join(f"{fact} {value:.3g}" for fact, value in row["facts"].items())
        parts.append(f"### {name.removeprefix('step0-')}\n\n{facts}.\n\n{markdown(lines)}")
    return "\n\n".join(parts) or markdown([])


def backbones(others: dict[str, dict]) -> str:
    """What the pretraining of bodies, or of a head alone, came to."""
    rows = {name.removeprefix("backbone-"): row for name, row in others.items() if name.startswith("backbone-")}
    return markdown([
        {"backbone": name, "masked loss": f"{row['mask_loss']:.2f}", "unigram entropy": f"{row['unigram_entropy']:.2f}",
         "reads": "yes" if row["mask_loss"] < row["unigram_entropy"] - 0.5 else "no, it copies",
         "own tokens among the first 10": f"{row['own_tokens_in_top_10']:.2f}"}
        for name, row in rows.items()
    ])  # fmt: skip


def _spread(values: pd.Series) -> str:
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _signed(found: Any) -> str:
    """A difference with its interval, where there is one."""
    return f"{found.mean:+.3f}" + ("" if np.isnan(found.p) else f" [{found.low:+.3f}, {found.high:+.3f}]")


def _interval(found: Any, p: float | None) -> str:
    """The same with p."""
    if p is None:
        return _signed(found)
    sign = "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")
    return f"{_signed(found)} {sign}"


def main(arguments: list[str] | None = None) -> None:
    """Write tables.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--gpu", type=existing, help="runs on another machine; default: results-gpu.jsonl beside these")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    gpu = options.gpu or options.results.with_name("results-gpu.jsonl")
    table, others = load(options.results, gpu)
    text = "\n\n".join([
        "# Tables of the second calibration study",
        f"Written by `analyse.py` from `{options.results.name}` and `{gpu.name}`.",
        "## In short", headline(table, others), "Arms minus A, before and after training:", offsets(table, others),
        "## Before training: what the offset is", step0(others),
        "## Without a model", without_model(others),
        "## What backbones were pretrained to", backbones(others),
        "## Learning rates, on held-out pairs", rates(table),
        "## Test topics", finals(table, others),
        f"## The same runs twice: {options.results.name} - {gpu.name}", repeats(options.results, gpu),
    ])  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
