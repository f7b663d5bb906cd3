"""The two verbs of an index as PyTerrier's transformers: its indexer and its retriever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .._utils.documents import as_documents
from .._utils.progress import progress_bar
from .._utils.stages import Stage
from . import store
from .engines import engine_class
from .engines.base import Engine
from .generation import SHARDS, Generation, write_vocabulary
from .intake import ToksIntake, query_weights
from .shards import write_shards
from .vectors import Vectors


class _Role(Stage):
    def _maker_and_arguments(self) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        """The engine's own options are arguments like the others."""
        maker, arguments = super()._maker_and_arguments()
        options, _ = arguments.pop("options")
        return maker, {**arguments, **{name: (value, None) for name, value in options.items()}}


class NoTermsError(ValueError):
    """No document has any term, and the engine cannot hold an index without one."""


class Indexer(_Role, pt.Indexer):
    """Writes documents into an index: all of them or, with an exception, none."""

    _call = _label = "indexer"

    def __init__(
        self,
        target: Any,
        *,
        mode: str = "create",
        bits: int | None = None,
        verbose: bool = False,
        made_from: Mapping[str, Any] | None = None,
        options: Mapping[str, Any],
    ) -> None:
        self.target, self.mode, self.bits, self.verbose = target, mode, bits, verbose
        self.made_from, self.options = made_from, options

    def index(self, iter: Iterable[Mapping[str, Any]] | Vectors) -> Any:
        """Index documents with docno (str) and toks ({term: int >= 1}), or vectors; return the index that holds them.

        Raises:
            ValueError, TypeError, KeyError: a document that cannot be indexed as it is; what was at the path stays.
            FileExistsError: something is at the path already (and mode is "create"), or something that is not ours.
            RuntimeError: another process is writing there.
        """
        target, engine, made_from = self.target, engine_class(self.target.engine), self.made_from
        if isinstance(iter, Vectors):
            theirs = iter.made_from or {}
            if self.mode == "append" and len(target):  # what is added to is no longer made from one corpus
                ours = (target.made_from or {}).get("encoder")
                if ours and theirs.get("encoder", ours) != ours:
                    raise ValueError(
                        f"vectors at {str(iter.path)!r} and the index are of different encoders: encode these "
                        "documents with the index's, or build it anew from all documents"
                    )
                theirs = {"encoder": ours} if ours and ours == theirs.get("encoder") else {}
            made_from = made_from or theirs or None
        elif self.verbose:
            total = len(iter) if hasattr(iter, "__len__") else None
            iter = progress_bar(as_documents(iter), desc=f"indexing ({engine.name})", unit="d", total=total)
        with store.building(target.path, target._build_metadata(), mode=self.mode) as (folder, content):
            old = target.open() if self.mode == "append" and len(target) else None
            fingerprint = _write_vectors(folder, iter, engine, target.scale, self.bits is not None, old)
            scale = None if self.bits is not None else target.scale  # weights are read as the scale rounds them
            content |= {"engine": engine.name, "scale": scale, "fingerprint": fingerprint, "made_from": made_from}
            generation = Generation(folder, content)
            content["documents"] = generation.write_rows()
            if self.bits is not None:
                largest = max(float(vectors.data.max(initial=0)) for _, vectors in generation.blocks())
                content["scale"] = float(f"{((1 << self.bits) - 1) / (largest or 1):.6g}")
            used = generation.terms[generation.document_frequencies > 0]
            for term in used if isinstance(iter, Vectors) else ():
                engine.check_term(term)
            if engine.needs_terms and not len(used):
                raise NoTermsError("no document has any term (toks is empty in all of them)")
            (folder / engine.name).mkdir()
            engine.build(folder / engine.name, generation, **self.options)
        target.close()
        if self.bits is not None:
            target.asked.pop("scale", None)
        return target

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents need."""
        return [["docno", "toks"]]


def _write_vectors(
    folder: Path, documents: Any, engine: type[Engine], scale: float, any_scale: bool, old: Generation | None
) -> str | None:
    """Write shards and vocabulary of a generation, those of an ``old`` one first; return the encoder's fingerprint."""
    (folder / SHARDS).mkdir()
    if isinstance(documents, Vectors) and old is None:
        source = documents.open()
        write_shards(folder / SHARDS, source.blocks())
        write_vocabulary(folder, source.terms, source.readable, source.tokens)
        return source.content["fingerprint"]
    if isinstance(documents, Vectors):
        documents = documents.documents(scale)
    intake = ToksIntake(documents, engine.check_term, scale, any_scale, old)
    write_shards(folder / SHARDS, chain(old.blocks() if old else (), intake.blocks()))
    new = list(intake.vocabulary)[len(old.terms) if old else 0 :]
    readable = [*old.readable, *new] if old else None
    tokens = [*old.tokens, *[None] * len(new)] if old and old.tokens else None
    write_vocabulary(folder, intake.vocabulary, readable, tokens)
    return intake.fingerprint


class Retriever(_Role):
    """Ranks documents by the dot product of the query's weights and the documents' weights, both unscaled.

    Takes qid and query_toks ({term: weight >= 0}); keeps these and all other columns of the queries, in their order,
    and adds docno, score and rank (from 0). Equal scores are in docno order. Documents that share no term with the
    query are not returned, so a query without known terms has no rows. Each call answers from one index as a whole: the
    one that is at the path when the call begins. Threads may share a retriever.
    """

    _call = _label = "retriever"

    def __init__(
        self,
        index: Any,
        num_results: int = 1000,
        *,
        threads: int = 1,
        verbose: bool = False,
        options: Mapping[str, Any],
    ) -> None:
        self.index, self.num_results = index, num_results
        self.threads, self.verbose, self.options = threads, verbose, options

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for every row of a frame with qid and query_toks.

        Raises:
            FileNotFoundError: there is no whole index.
            ValueError, TypeError: weights that are no numbers >= 0, or queries of another vocabulary or scale.
        """
        pt.validate.query_frame(inp, extra_columns=["query_toks"], context=self)
        inp = inp.drop(columns=["score", "rank"], errors="ignore")
        if not len(inp):
            return inp.assign(docno=pd.Series(dtype=str), score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        return self.index.read(lambda generation: self._search(inp, generation))

    def _search(self, inp: pd.DataFrame, generation: Generation) -> pd.DataFrame:
        engine, vocabulary = generation.engine, generation.content["fingerprint"]
        queries = [query_weights(*query, vocabulary) for query in zip(inp["query_toks"], inp["qid"], strict=True)]
        parts = []
        with progress_bar(
            desc=f"retrieving ({engine.name})", unit="q", total=len(queries), disable=not self.verbose
        ) as bar:
            for part in engine.search_all(queries, self.num_results, self.threads, **self.options):
                parts.append(part)
                bar.update(len(part[0]))
        counts, numbers, scores = map(np.concatenate, zip(*parts, strict=True))
        out = inp.iloc[np.repeat(np.arange(len(inp)), counts)].reset_index(drop=True)
        out["docno"] = generation.docnos.take(numbers).to_pandas()
        out["score"] = scores
        out["rank"] = np.arange(len(out)) - np.repeat(np.cumsum(counts) - counts, counts) + pt.model.FIRST_RANK
        return out

    def fuse_rank_cutoff(self, k: int) -> Retriever:
        """`retriever % k` as one retriever of at most k results."""
        if k >= self.num_results:
            return self
        return Retriever(self.index, k, threads=self.threads, verbose=self.verbose, options=self.options)
