"""Compare backbones and rescalings: train each alike, index each, then one ``pt.Experiment`` with BM25 beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_integer
from .._utils.durable import write_whole
from .._utils.paths import expand
from ..heads.fingerprint import settings_fingerprint
from ..indexing.bm25 import bm25, build_bm25, choose_tokeniser, nothing
from .encoders import NO_FACTS, check_training, indexed, system_encoder
from .examples import texts_of, topic_examples, write_examples
from .results import ComparisonResults
from .system import System, check_backbones, parse_rescale, rescale_label

if TYPE_CHECKING:
    import pandas as pd

    from ..splade import Splade

_CONFIG = "config.json"
_WRITTEN = ("encoders", "indexes", "runs", "fused", "figures", "results.csv", "results.md", "per_query.csv")
MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")


class Comparison(ComparisonResults):
    """Results of :func:`compare`, which can be shown as one page."""

    def report(self, command: str | None = None) -> Path:
        """Write ``report.html`` into the folder, and return it: one page that needs nothing else.

        Args:
            command: what made it, as typed; default: the call with its arguments.
        """
        from .report import write_report

        return write_report(self, command)


def compare(
    collection: Any,
    backbones: Mapping[str, str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    rescalings: Sequence[float | str | None] = (None, 16.0),
    split: str = "test",
    engine: str = "terrier",
    untrained: bool = False,
    model_free: bool = True,
    fusion: bool = False,
    num_results: int = 1000,
    max_length: int = 256,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    command: str | None = None,
    verbose: bool = True,
) -> Comparison:
    """Train every backbone with every rescaling, index, retrieve, evaluate, test, and draw.

    Interrupted and called again with the same arguments, it reuses every encoder and index that is complete. What tells
    data and backbones from others is recorded, so nothing is reused for changed ones, whatever they are called. A
    system that finds nothing, or whose training collapses, gets a row of zeros.

    Args:
        collection: a collection with training pairs, or the name of one.
        backbones: ``{name: folder or hub name}`` of masked LMs.
        output_dir: gets ``report.html``, ``results.csv``, ``per_query.csv``, ``runs/``, ``config.json``, ``figures/``,
            ``encoders/`` and ``indexes/``.
        rescalings: each ``None``, a number, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        split: the split that is scored; training uses ``collection.train_pairs()``.
        engine: index engine of the trained encoders.
        untrained: score the same encoders before training, too. Their vectors may be nearly dense, where a Terrier
            index (unary weights) would take gigabytes: these rows use the exact engine.
        model_free: beside Terrier's BM25 show what each backbone's own word pieces reach without a model, on the same
            ``max_length`` tokens: pieces x IDF, and BM25 (:class:`~pyterrier_rescale.LexicalEncoder`).
        fusion: show each of these and each trained system with BM25 added, too (per query min-max, summed; see
            :func:`~pyterrier_rescale.evaluation.model_free.fused`).
        num_results: documents per query.
        max_length: tokens per text.
        seed: of the training.
        training: options of :func:`~pyterrier_rescale.train`, and ``dev``; ``monitor="warn"`` if it is not among them.
        say: told each step, one line each.
        command: what the report says it was made by; default: this call.
        verbose: show progress bars.

    Returns:
        The table, the values per query and the folder.

    Raises:
        ValueError: for bad arguments, names that cannot name files, or if ``output_dir`` holds another comparison.
        OSError: if ``output_dir`` cannot be written.
    """
    import pandas as pd

    from ..collections import load_collection
    from ..indexing.engines import engine_class
    from .experiment import experiment, read_run
    from .figures import draw_figures, markdown_table
    from .model_free import fused_runs, lexical_systems

    if isinstance(collection, (str, os.PathLike)):
        collection = load_collection(collection)
    check_backbones(backbones)
    if isinstance(rescalings, (str, bytes)):
        raise TypeError(f"rescalings must be a list, such as [{rescalings!r}], got {rescalings!r}")
    rescalings = list(dict.fromkeys(parse_rescale(value) for value in rescalings))
    if not rescalings:
        raise ValueError("rescalings must hold at least one of none, a number, auto, calibrated, learned")
    engine_class(engine)
    num_results, max_length = check_integer("num_results", num_results), check_integer("max_length", max_length)
    training = {"monitor": "warn", **(training or {})}
    dev = check_training({"max_length": max_length, "seed": seed, **training}, rescalings)
    topics, qrels = collection.topics(split), collection.qrels(split)
    if not topics["qid"].isin(qrels["qid"]).any():
        raise ValueError(f"split {split!r} of {collection.name!r} has no topic with judgements: nothing can be scored")
    pairs = collection.train_pairs()
    made_from = _fingerprints(collection, topics, qrels, pairs, backbones) | dev
    plain_training = {name: value for name, value in training.items() if name != "dev"}
    config = {
        "collection": collection.name, "split": split, "topics": len(topics),
        "backbones": {name: os.fspath(model) for name, model in backbones.items()},
        "rescalings": [rescale_label(value) for value in rescalings],
        "engine": engine, "untrained": untrained, "num_results": num_results, "max_length": max_length, "seed": seed,
        "training": plain_training, "made_from": made_from,
    }  # fmt: skip
    output_dir = claim_folder(output_dir, config)
    trained = [System(name, value) for name in backbones for value in rescalings]
    plain = [System(name, value, False) for name in backbones for value in rescalings if value != "learned"]
    listed = (plain if untrained else []) + trained
    indexes = output_dir / "indexes"
    found = _bm25(collection, topics, indexes / "BM25", made_from, num_results, say, verbose)
    pipelines: dict[str, Any] = {"BM25": found}
    shown: dict[str, Splade] = {}
    rows: dict[str, dict[str, Any]] = {
        "BM25": {
            "index_mb": sum(file.stat().st_size for file in (indexes / "BM25").iterdir()) / 1e6, "folder": "BM25",
        }
    }
    options = {"max_length": max_length, "seed": seed, **training}
    if model_free:
        say("model-free rows: the backbones' word pieces by IDF and BM25")
        lexical = lexical_systems(
            collection, config["backbones"], topics, indexes, corpus_id=made_from["documents"],
            max_length=options["max_length"], lowercase=bool(options.get("lowercase")), num_results=num_results,
            verbose=verbose,
        )  # fmt: skip
        pipelines |= {name: pipeline for name, (pipeline, _) in lexical.items()}
        rows |= {name: facts for name, (_, facts) in lexical.items()}
    for number, system in enumerate(listed, start=1):
        say(f"[{number}/{len(listed)}] {system.name}")
        splade, facts = system_encoder(
            system, backbones[system.backbone], pairs, output_dir / "encoders" / system.folder,
            {**options, "verbose": verbose},
            {"backbone": made_from["backbones"][system.backbone], "pairs": made_from["pairs"],
             "options": _plain({**options, **dev, "rescale": system.rescale})},
        )  # fmt: skip
        if splade is None:
            say(f"{system.name}: its training collapsed, a row of zeros: {facts.pop('collapsed')}")
            pipelines[system.name], about = nothing(), NO_FACTS
        else:
            pipelines[system.name], about = indexed(
                splade, collection, indexes / system.folder, topics, engine=engine if system.trained else "exact",
                corpus_id=made_from["documents"], num_results=num_results, verbose=verbose,
            )  # fmt: skip
        rows[system.name] = {**facts, **about}
        if "engine" in about and system.trained and system.backbone == next(iter(backbones)):
            shown[system.name] = splade
    say(f"pt.Experiment: {len(pipelines)} systems, {len(topics)} topics")
    runs = output_dir / "runs"
    means, per_query = experiment(pipelines, topics, qrels, MEASURES, runs, say, verbose)
    if fusion:
        alone = {system.name for system in listed if not system.trained} | {"BM25"}
        added = fused_runs(runs, [name for name in pipelines if name not in alone])
        means, per_query = (
            pd.concat(both) for both in zip(
                (means, per_query),
                experiment(added, topics, qrels, MEASURES, output_dir / "fused", say, verbose), strict=True,
            )
        )  # fmt: skip
        means.loc[list(added), "mrt"] = float("nan")  # of sums of saved runs
        rows |= {name: {} for name in added}
    results = _table(listed, rows, means, per_query)
    write_whole(output_dir / "per_query.csv", per_query.to_csv(index=False))
    write_whole(output_dir / "results.csv", results.to_csv(index=False))
    write_whole(output_dir / "results.md", markdown_table(results) + "\n")
    comparison = Comparison(results, per_query, output_dir, config)
    draw_figures(comparison)
    if shown:
        found_runs = {name: read_run(runs, name) for name in shown}
        examples = topic_examples(shown, found_runs, per_query, topics, qrels, partial(texts_of, collection))
        write_examples(output_dir, examples)
    comparison.report(command)
    return comparison


def _fingerprints(
    collection: Any, topics: pd.DataFrame, qrels: pd.DataFrame, pairs: Any, backbones: Mapping[str, Any]
) -> dict[str, Any]:
    """What tells these data and backbones from others, wherever they lie and whatever they are called."""
    from ..indexing.build import corpus_fingerprint
    from ..splade import Splade
    from ..training.loading import load_rows

    return {
        "documents": corpus_fingerprint(collection.corpus),
        "topics": _frame_fingerprint(topics[["qid", "query"]]),
        "qrels": _frame_fingerprint(qrels[["qid", "docno", "label"]]),
        "pairs": load_rows(pairs).facts.fingerprint,
        "backbones": {name: Splade(os.fspath(model)).fingerprint for name, model in backbones.items()},
    }


def _frame_fingerprint(frame: pd.DataFrame) -> str:
    return f"{len(frame)}:{settings_fingerprint(frame.astype(str).to_numpy().tolist())}"


def _bm25(
    collection: Any, topics: pd.DataFrame, path: Path, made_from: Mapping[str, Any], num_results: int,
    say: Callable[[str], None], verbose: bool,
) -> Any:  # fmt: skip
    tokeniser = choose_tokeniser((d["text"] for d in collection.corpus()), topics["query"])
    documents = {"documents": made_from["documents"]}
    why = "" if tokeniser == "english" else f", tokeniser {tokeniser}: the English one drops letters of these texts"
    if build_bm25(collection.corpus, path, tokeniser=tokeniser, made_from=documents, verbose=verbose):
        say(f"BM25: indexed{why}")
    return bm25(path, num_results)


def claim_folder(output_dir: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """The output folder, ours: new, or holding the same comparison.

    Raises:
        ValueError: if it holds another comparison, naming what differs.
        FileExistsError: if it holds files or folders of the names that a comparison writes, but no comparison.
        OSError: if it cannot be made or written.
    """
    path = expand(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"output_dir must be a folder, {str(path)!r} is a file")
    file = path / _CONFIG
    if file.exists():
        # where a backbone lies says nothing of what it is: made_from does
        earlier, now = (
            {key: value for key, value in one.items() if key != "backbones"}
            for one in (json.loads(file.read_text(encoding="utf-8")), _plain(config))
        )
        differs = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
        if differs:
            told = "; ".join(_difference(key, earlier.get(key), now.get(key)) for key in differs)
            raise ValueError(f"output_dir {str(path)!r} holds another comparison ({told}): choose another folder")
        return path
    others = [name for name in _WRITTEN if (path / name).exists()]
    if others:
        raise FileExistsError(
            f"output_dir {str(path)!r} holds {', '.join(others)}, but no {_CONFIG} of a comparison: choose another "
            "folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(_plain(config), indent=2) + "\n")
    return path


def _difference(key: str, was: Any, now: Any) -> str:
    """The innermost entries that differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        return "; ".join(
            _difference(part if key == "made_from" else f"{key} {part}", was.get(part), now.get(part))
            for part in {**was, **now} if was.get(part) != now.get(part)
        )  # fmt: skip
    return f"{key} was {was!r}, now {now!r}"


def _plain(value: Any) -> Any:
    """As JSON gives it back; numbers of numpy as numbers."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def _table(
    listed: list[System], rows: dict[str, dict[str, Any]], means: pd.DataFrame, per_query: pd.DataFrame
) -> pd.DataFrame:
    import pandas as pd

    from .significance import holm_against_twins

    p_values = holm_against_twins(
        per_query, {s.name: s.twin for s in listed if s.name != s.twin and s.twin in means.index}, MEASURES
    )
    systems = {system.name: system for system in listed}
    table = []
    for name, facts in rows.items():
        system = systems.get(name)
        row: dict[str, Any] = {
            "name": name,
            "backbone": None if system is None else system.backbone,
            "rescale": None if system is None else rescale_label(system.rescale),
            "trained": None if system is None else system.trained,
            **{measure: float(means.loc[name, measure]) for measure in MEASURES},
            **{f"p {measure}": p_values.get((name, measure)) for measure in MEASURES},
            "ms_per_query": float(means.loc[name, "mrt"]),
            "folder": None if system is None else system.folder,
        }
        table.append({**row, **facts})
    return pd.DataFrame(table)
