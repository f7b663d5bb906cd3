"""The rows of a comparison: an encoder, trained, only rescaled or without a model, and its index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..encoding.saved_folder import save_encoder
from ..heads.checkpoint import load_tokenizer
from ..indexing.bm25 import nothing
from ..indexing.build import build_index
from ..indexing.own_documents import WithoutOwnDocuments
from ..indexing.roles import NoTermsError
from ..splade import LexicalEncoder
from ..training import CollapseError, train
from ..training.config import TrainConfig, saved_options
from ..training.initialization import starting_module
from ..training.loading import load_rows
from ..training.monitor import LOG_FILE, logged
from .baseline import bm25
from .system import System

#: Rows without a model: their names after the backbone's, and the weightings of ``LexicalEncoder``.
LEXICAL = {"tokens x idf": "tokens", "BM25 on pieces": "bm25"}


@dataclasses.dataclass
class Row:
    """A pipeline, what the table says of it beside its effectiveness, and what it was made of."""

    pipeline: pt.Transformer
    facts: dict[str, Any]
    system: System | None = None
    encoder: Any = None
    twin: str | None = None  # name of the row that it is tested against


@dataclasses.dataclass(frozen=True)
class Indexer:
    """Indexes a collection by any encoder, and retrieves for its topics."""

    collection: Any
    corpus_id: str  # fingerprint of docnos and texts
    topics: pd.DataFrame
    folder: Path  # gets a folder per row
    num_results: int
    verbose: bool
    drop_own: WithoutOwnDocuments | None = None

    def _retrieve(self, retriever: Callable[[int], pt.Transformer]) -> pt.Transformer:
        """What a retriever of so many results finds, without the topics' own documents."""
        if self.drop_own is None:
            return retriever(self.num_results)
        return retriever(self.num_results + 1) >> self.drop_own

    def row(self, name: str, encoder: Any, engine: str, system: System | None = None) -> Row:
        """The row of an encoder; one that finds nothing where there is none, or no document has any term."""
        twin = None if system is None else system.twin
        try:
            if encoder is None:
                raise NoTermsError
            index = build_index(
                encoder, self.collection.corpus, self.folder / name, engine=engine, corpus_id=self.corpus_id,
                verbose=self.verbose,
            )  # fmt: skip
        except NoTermsError:
            return Row(nothing(), {"active_q": 0.0, "active_d": 0.0, "index_mb": 0.0}, system, twin=twin)
        stats, queries = index.stats(), encoder.encode_queries(self.topics["query"].tolist())
        facts = {
            "active_q": queries.nnz / max(1, queries.shape[0]),
            "active_d": stats["postings"] / max(1, stats["documents"]),
            "index_mb": index.size_bytes / 1e6,
        }
        pipeline = self._retrieve(lambda number: encoder.query_encoder() >> index.retriever(number))
        return Row(pipeline, facts, system, encoder, twin)

    def bm25(self) -> Row:
        """The row of Terrier's BM25."""
        path = self.folder / "BM25"
        pipeline = self._retrieve(lambda number: bm25(self.collection, path, number, verbose=self.verbose))
        return Row(pipeline, {"index_mb": sum(file.stat().st_size for file in path.iterdir()) / 1e6})

    def lexical(self, backbones: Mapping[str, Any], max_length: int, lowercase: bool) -> Iterator[tuple[str, Row]]:
        """Rows by name: the pieces of each backbone's tokenizer, cut and lower-cased as encoders see them.

        Tokenizers that give the same vectors share one pair of rows, named after the first of them.
        """
        seen: set[str] = set()
        for backbone, model in backbones.items():
            tokenizer = model.encoder.tokenizer if hasattr(model, "encoder") else load_tokenizer(model)
            for label, weighting in LEXICAL.items():
                encoder = LexicalEncoder(
                    tokenizer, idf_from=(document["text"] for document in self.collection.corpus()),
                    weighting=weighting, max_length=max_length, lowercase=lowercase,
                )  # fmt: skip
                if encoder.fingerprint not in seen:
                    seen.add(encoder.fingerprint)
                    name = f"{backbone} {label}"
                    yield name, self.row(name, encoder, "exact")


def fuse(bm25: Row, encoder: Row) -> Row:
    """Two rows by reciprocal rank fusion (Cormack et al., SIGIR 2009): a document scores 1 / (60 + its rank from 1)."""
    def reciprocal(results: pd.DataFrame) -> pd.DataFrame:
        return results.assign(score=1 / (61.0 + results["rank"]))

    left, right = (row.pipeline >> pt.apply.generic(reciprocal) for row in (bm25, encoder))
    return Row(left + right, {"index_mb": bm25.facts["index_mb"] + encoder.facts["index_mb"]}, twin="BM25")


def make_encoder(
    system: System, backbone: Any, pairs: Any, folder: Path, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Train the encoder of a row into a folder, or save what its training would start from.

    Returns ``train_s``, or why the training ``collapsed``.
    """
    if not system.trained:
        options = {name: value for name, value in options.items() if name not in ("dev", "verbose")}
        config = TrainConfig.from_dict({**saved_options(backbone), **options, "rescale": system.rescale})
        module = starting_module(backbone, None, load_rows(pairs), config)
        save_encoder(folder, module.mlm, module.tokenizer, module.described())
        return {}
    try:
        train(backbone, pairs, folder, rescale=system.rescale, **options)
    except CollapseError as error:
        return {"collapsed": str(error)}
    return {"train_s": round(logged(folder / LOG_FILE)[-1]["seconds"], 1)}  # also of a run that was interrupted
