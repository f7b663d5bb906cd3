"""Compare backbones and rescalings: train each alike, index each, then one ``pt.Experiment`` with BM25 beside them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..indexing.build import build_index, slug

if TYPE_CHECKING:
    import pandas as pd

    from ..splade import Splade

MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")
NAMED_RESCALINGS = ("auto", "calibrated", "learned")


@dataclass(frozen=True)
class System:
    """One row of a comparison.

    Attributes:
        backbone: name of the backbone.
        rescale: ``None``, a number, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        trained: whether SPLADE training followed.
    """

    backbone: str
    rescale: float | str | None
    trained: bool = True

    @property
    def name(self) -> str:
        """What the table shows, e.g. ``modernbert k=16`` or ``bert raw (untrained)``."""
        return f"{self.backbone} {rescale_label(self.rescale)}{'' if self.trained else ' (untrained)'}"

    @property
    def twin(self) -> str:
        """Name of the unrescaled system that this one is tested against."""
        return System(self.backbone, None, self.trained).name


@dataclass
class Comparison:
    """Results of :func:`compare`.

    Attributes:
        results: a row per system.
        per_query: ``name, qid, measure, value``.
        output_dir: the folder with everything.
    """

    results: pd.DataFrame
    per_query: pd.DataFrame
    output_dir: Path
    config: dict[str, Any] = field(repr=False)


def rescale_label(rescale: float | str | None) -> str:
    """``raw``, ``k=16``, ``auto``, ``calibrated`` or ``learned``."""
    if rescale is None:
        return "raw"
    return rescale if isinstance(rescale, str) else f"k={rescale:g}"


def parse_rescale(value: float | str | None) -> float | str | None:
    """What a user types for a rescaling, as a value: ``none`` or ``raw``, a number, or one of the named ones.

    Raises:
        ValueError: for anything else.
    """
    from ..heads.rescaling import check_k

    if value is None or str(value).lower() in ("none", "raw", ""):
        return None
    if str(value) in NAMED_RESCALINGS:
        return str(value)
    try:
        return check_k(float(value))
    except ValueError:
        raise ValueError(
            f"rescale must be none, a number > 0, {', '.join(NAMED_RESCALINGS)}; got {value!r}"
        ) from None


def compare(
    collection: Any,
    backbones: Mapping[str, str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    rescalings: Sequence[float | str | None] = (None, 16.0),
    split: str = "test",
    engine: str = "terrier",
    untrained: bool = False,
    num_results: int = 1000,
    max_length: int = 256,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    verbose: bool = True,
) -> Comparison:
    """Train every backbone with every rescaling, index, retrieve, evaluate, test, and draw.

    Interrupted and called again with the same arguments, it reuses every encoder and index that is complete.

    Args:
        collection: a collection with training pairs, or the name of one.
        backbones: ``{name: folder or hub name}`` of masked LMs.
        output_dir: gets ``results.csv``, ``per_query.csv``, ``runs/``, ``config.json``, ``figures/``, ``encoders/``
            and ``indexes/``.
        rescalings: each ``None``, a number, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        split: the split that is scored; training uses ``collection.train_pairs()``.
        engine: index engine of the trained encoders.
        untrained: score the same encoders before training, too. Their vectors may be nearly dense, where a Terrier
            index (unary weights) would take gigabytes: these rows use the exact engine.
        num_results: documents per query.
        max_length: tokens per text.
        seed: of the training.
        training: further arguments of :func:`~pyterrier_rescale.train`.
        say: told each step, one line each.
        verbose: show progress bars.

    Returns:
        The table, the values per query and the folder.

    Raises:
        ValueError: for bad arguments, or if ``output_dir`` holds another comparison.
        OSError: if ``output_dir`` cannot be written.
    """
    from ..collections import load_collection

    if isinstance(collection, (str, os.PathLike)):
        collection = load_collection(collection)
    if not backbones:
        raise ValueError("backbones must hold at least one name -> model, got none")
    rescalings = list(dict.fromkeys(parse_rescale(value) for value in rescalings))
    if not rescalings:
        raise ValueError("rescalings must hold at least one of none, a number, auto, calibrated, learned")
    topics, qrels = collection.topics(split), collection.qrels(split)
    training = dict(training or {})
    config = {
        "collection": collection.name, "split": split, "topics": len(topics),
        "backbones": {name: str(model) for name, model in backbones.items()},
        "rescalings": [rescale_label(value) for value in rescalings],
        "engine": engine, "untrained": untrained, "num_results": num_results, "max_length": max_length, "seed": seed,
        "training": training,
    }  # fmt: skip
    output_dir = claim_folder(output_dir, config)
    documents = _Documents(collection, output_dir)
    documents.count_and_fingerprint()
    trained = [System(name, value) for name in backbones for value in rescalings]
    plain = [System(name, value, False) for name in backbones for value in rescalings if value != "learned"]
    listed = (plain if untrained else []) + trained
    rows: dict[str, dict[str, Any]] = {}
    pipelines: dict[str, Any] = {"BM25": documents.bm25(num_results, say)}
    rows["BM25"] = {"index_mb": documents.bm25_bytes() / 1e6}
    pairs = collection.train_pairs()
    for number, system in enumerate(listed, start=1):
        say(f"[{number}/{len(listed)}] {system.name}")
        splade, facts = _encoder(
            system, backbones[system.backbone], pairs, output_dir,
            {"max_length": max_length, "seed": seed, "verbose": verbose, **training},
        )  # fmt: skip
        row_engine = engine if system.trained else "exact"
        index = build_index(
            splade, collection.corpus, output_dir / "indexes" / slug(system.name),
            engine=row_engine, corpus_id=documents.fingerprint, verbose=verbose,
        )  # fmt: skip
        pipelines[system.name] = splade.query_encoder() >> index.retriever(num_results)
        stats = index.stats()
        queries = splade.encode_queries(topics["query"].tolist())
        rows[system.name] = {
            **facts,
            "active_q": queries.nnz / max(1, queries.shape[0]),
            "active_d": stats["postings"] / max(1, stats["documents"]),
            "index_mb": index.size_bytes / 1e6,
            "engine": row_engine,
        }
    say(f"pt.Experiment: {len(pipelines)} systems, {len(topics)} topics")
    means, per_query = _experiment(pipelines, topics, qrels, output_dir)
    results = _table(listed, rows, means, per_query)
    _write_results(output_dir, results, per_query)
    comparison = Comparison(results, per_query, output_dir, config)
    from .figures import draw_figures

    draw_figures(comparison)
    return comparison


def claim_folder(output_dir: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """The output folder, ours: new, or holding the same comparison.

    Raises:
        ValueError: if it holds another comparison, naming what differs.
        OSError: if it cannot be made or written.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"output_dir must be a folder, {str(path)!r} is a file")
    file = path / "config.json"
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        config = json.loads(json.dumps(config))
        differs = [key for key in {**earlier, **config} if earlier.get(key) != config.get(key)]
        if differs:
            told = "; ".join(f"{key} was {earlier.get(key)!r}, now {config.get(key)!r}" for key in differs)
            raise ValueError(f"output_dir {str(path)!r} holds another comparison ({told}): choose another folder")
        return path
    path.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


class _Documents:
    """The corpus as BM25's index, and its fingerprint."""

    def __init__(self, collection: Any, output_dir: Path) -> None:
        self._collection = collection
        self._path = output_dir / "indexes" / "BM25"
        self.fingerprint = ""

    def count_and_fingerprint(self) -> None:
        from ..indexing.build import _corpus_fingerprint

        self.fingerprint = _corpus_fingerprint(self._collection.corpus)

    def bm25(self, num_results: int, say: Callable[[str], None]) -> Any:
        """BM25 over the same ``text``, Terrier's defaults (Porter stems, stop words, k1=1.2, b=0.75)."""
        import pyterrier as pt

        from ..indexing.java import errors_only, start_java

        start_java()
        if not (self._path / "data.properties").exists():
            say("BM25: indexing")
            building = self._path.with_name("BM25.building")
            shutil.rmtree(building, ignore_errors=True)
            longest = max(len(document["docno"]) for document in self._collection.corpus())
            fields = ({"docno": d["docno"], "text": d["text"]} for d in self._collection.corpus())
            with errors_only():
                pt.terrier.TerrierIndex(building).indexer(meta={"docno": longest}).index(fields)
            os.replace(building, self._path)
        index = pt.terrier.TerrierIndex(self._path)
        return pt.rewrite.tokenise() >> index.bm25(num_results=num_results)

    def bm25_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._path.iterdir())


def _encoder(
    system: System, backbone: Any, pairs: Any, output_dir: Path, training: dict[str, Any]
) -> tuple[Splade, dict[str, Any]]:
    """The encoder of a row: loaded where it is complete, else trained (or rescaled only) and saved."""
    from ..splade import Splade
    from ..training import train

    folder = output_dir / "encoders" / slug(system.name)
    facts_file = folder / "facts.json"
    if facts_file.exists():
        return Splade(str(folder)), json.loads(facts_file.read_text(encoding="utf-8"))
    start = time.perf_counter()
    if system.trained:
        splade = train(backbone, pairs, folder, rescale=system.rescale, resume=True, **training)
    else:
        splade = _rescaled_only(system, backbone, pairs, training)
        splade.save_pretrained(folder)
        splade = Splade(str(folder))
    facts = {"train_s": round(time.perf_counter() - start, 1) if system.trained else 0.0}
    facts_file.write_text(json.dumps(facts), encoding="utf-8")
    return splade, facts


def _rescaled_only(system: System, backbone: Any, pairs: Any, training: dict[str, Any]) -> Splade:
    """What the training of the same row starts from."""
    from ..splade import Splade
    from ..training import TrainConfig
    from ..training.data.rows import load_rows
    from ..training.initialization import starting_module

    options = {key: value for key, value in training.items() if key != "verbose"}
    config = TrainConfig.from_dict({**options, "rescale": system.rescale})
    start = starting_module(backbone, None, load_rows(pairs), config)
    return Splade(start.mlm, tokenizer=start.tokenizer, pooling=config.pooling, max_length=config.max_length)


def _experiment(
    pipelines: dict[str, Any], topics: pd.DataFrame, qrels: pd.DataFrame, output_dir: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means by system and values per query; the runs stay in ``runs/``."""
    import ir_measures
    import pandas as pd
    import pyterrier as pt

    runs = output_dir / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    means = pt.Experiment(
        pipelines, topics, qrels, [*measures, "mrt"], filter_by_qrels=True, save_dir=str(runs), verbose=True
    )
    # With perquery="both" PyTerrier 1.1 leaves the response time out; the values per query are in save_dir, too.
    per_query = pd.read_csv(runs / "perquery.csv", dtype={"qid": str})
    return means.set_index("name"), per_query


def _table(
    listed: list[System], rows: dict[str, dict[str, Any]], means: pd.DataFrame, per_query: pd.DataFrame
) -> pd.DataFrame:
    import pandas as pd

    from .significance import holm_against_twins

    p_values = holm_against_twins(
        per_query, {s.name: s.twin for s in listed if s.name != s.twin and s.twin in means.index}, MEASURES
    )
    table = []
    for system in [None, *listed]:
        name = "BM25" if system is None else system.name
        row: dict[str, Any] = {
            "name": name,
            "backbone": None if system is None else system.backbone,
            "rescale": None if system is None else rescale_label(system.rescale),
            "trained": None if system is None else system.trained,
            **{measure: float(means.loc[name, measure]) for measure in MEASURES},
            **{f"p {measure}": p_values.get((name, measure)) for measure in MEASURES},
            "ms_per_query": float(means.loc[name, "mrt"]),
        }
        table.append({**row, **rows[name]})
    return pd.DataFrame(table)


def _write_results(output_dir: Path, results: pd.DataFrame, per_query: pd.DataFrame) -> None:
    """Write beside, then rename: a results.csv that is there is whole."""
    from .figures import markdown_table

    for name, write in (
        ("per_query.csv", lambda path: per_query.to_csv(path, index=False)),
        ("results.csv", lambda path: results.to_csv(path, index=False)),
        ("results.md", lambda path: path.write_text(markdown_table(results) + "\n", encoding="utf-8")),
    ):
        beside = output_dir / f".{name}"
        write(beside)
        os.replace(beside, output_dir / name)
