"""The encoder of a row and its index: trained or only rescaled, saved with what it was made from, reused for that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.durable import write_whole
from ..encoding.saved_folder import save_encoder
from ..indexing.bm25 import nothing
from ..indexing.build import build_index
from ..indexing.engines.documents import NoTermsError
from .system import System

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt

    from ..splade import Splade
    from ..training.model import SparseHead

_FACTS = "facts.json"
#: Of a row that finds nothing.
NO_FACTS = {"active_q": 0.0, "active_d": 0.0, "index_mb": 0.0}


def system_encoder(
    system: System, backbone: str | os.PathLike[str], pairs: Any, folder: Path, training: Mapping[str, Any],
    made_from: Mapping[str, Any],
) -> tuple[Splade | None, dict[str, Any]]:  # fmt: skip
    """The encoder of a row: loaded where it is whole and made from the same, else trained (or rescaled only) and saved.

    ``training`` are arguments of ``train``; ``made_from``, plain JSON values, tells backbone, pairs and options from
    others.

    Returns:
        The encoder, or ``None`` where its training collapsed; ``{"train_s": seconds}``, and then ``"collapsed"``, why.

    Raises:
        ValueError: the folder holds an encoder made from something else, or changed since; the message names it.
    """
    from ..splade import Splade
    from ..training import CollapseError, train

    facts_file = folder / _FACTS
    if facts_file.exists():
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        _check(folder, facts.pop("made_from", {}), dict(made_from))
        encoder = facts.pop("encoder", None)
        if "collapsed" in facts:
            return None, facts
        splade = Splade(str(folder))
        _check(folder, {"weights": encoder}, {"weights": splade.fingerprint})
        return splade, facts
    start = time.perf_counter()
    splade, facts = None, {}
    if not system.trained:
        start_of = _rescaled_only(system, backbone, pairs, training)
        save_encoder(folder, start_of.mlm, start_of.tokenizer, start_of.described())
        splade = Splade(str(folder))
    else:
        try:
            splade = train(backbone, pairs, folder, rescale=system.rescale, resume=True, **training)
        except CollapseError as error:
            facts["collapsed"] = str(error)
    facts["train_s"] = round(time.perf_counter() - start, 1) if system.trained else 0.0
    record = {**facts, "made_from": made_from, "encoder": None if splade is None else splade.fingerprint}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(facts_file, json.dumps(record, indent=2))
    return splade, facts


def check_training(training: Mapping[str, Any], rescalings: Iterable[Any]) -> dict[str, str]:
    """Check the options that all rows are trained with, before any is.

    Returns:
        What tells the split that training is watched on from others: ``{"dev": fingerprint}``, or nothing.

    Raises:
        ValueError, TypeError: for what no training could use, or what is a row's own.
    """
    from ..training import TrainConfig
    from ..training.dev_evaluation import DevSet

    options = {name: value for name, value in training.items() if name != "dev"}
    if "rescale" in options:
        raise ValueError("training must leave out rescale: each row has its own, see rescalings")
    dev = training.get("dev")
    for rescale in rescalings:
        TrainConfig.from_dict({**options, "rescale": rescale}).check_dev(dev)
    return {} if dev is None else {"dev": DevSet(dev).fingerprint}


def indexed(
    encoder: Splade, collection: Any, path: Path, topics: pd.DataFrame, *, engine: str, corpus_id: str,
    num_results: int, verbose: bool,
) -> tuple[pt.Transformer, dict[str, Any]]:  # fmt: skip
    """The pipeline of an encoder over the collection, and the facts of its row; nothing and zeros without any term."""
    try:
        index = build_index(
            encoder, collection.corpus, path, engine=engine, corpus_id=corpus_id, verbose=verbose
        )
    except NoTermsError:  # experiment() says so
        return nothing(), dict(NO_FACTS)
    stats, queries = index.stats(), encoder.encode_queries(topics["query"].tolist())
    facts = {
        "active_q": queries.nnz / max(1, queries.shape[0]),
        "active_d": stats["postings"] / max(1, stats["documents"]),
        "index_mb": index.size_bytes / 1e6,
        "engine": engine,
    }
    return encoder.query_encoder() >> index.retriever(num_results), facts


def _check(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differs = [f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]
    if differs:
        raise ValueError(
            f"the encoder in {str(folder)!r} was made from something else ({'; '.join(differs)}): choose another "
            "output_dir, or remove that folder"
        )


def _rescaled_only(system: System, backbone: Any, pairs: Any, training: Mapping[str, Any]) -> SparseHead:
    """What the training of the same row starts from."""
    from ..training.config import TrainConfig, saved_options
    from ..training.initialization import starting_module
    from ..training.loading import load_rows

    options = {key: value for key, value in training.items() if key not in ("verbose", "dev")}
    config = TrainConfig.from_dict({**saved_options(backbone), **options, "rescale": system.rescale})
    return starting_module(backbone, None, load_rows(pairs), config)
