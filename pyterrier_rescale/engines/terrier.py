"""Engine "terrier": Terrier's inverted index through PyTerrier's Java, written in a single pass."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from ..java import start_java
from . import storage
from .base import EngineIndex
from .documents import DocumentStream
from .feed import feed_lines
from .searcher import Result, Searcher, order_by_score

_CONTROLS_OFF = ("terrierql", "parsecontrols", "parseql", "matchopql", "applypipeline", "decorate", "decorate_batch")
_KEY_LENGTH = 64  # of docnos while indexing; every document costs a compression of three times as many bytes
MAX_TERM_BYTES = 60  # what Terrier's lexicon reserves for a term


class TerrierEngine(EngineIndex):
    """A Terrier index of integer weights; plain PyTerrier reads it, too: `pt.terrier.TerrierIndex(path).tf()`."""

    ARTIFACT_FORMAT = "rescale_terrier"
    engine = "terrier"

    def _prepare(self) -> None:
        start_java()

    def _check_term(self, term: str) -> None:
        size = len(term.encode("utf-8"))
        if not 1 <= size <= MAX_TERM_BYTES:
            raise ValueError(
                f"engine 'terrier' holds terms of 1 to {MAX_TERM_BYTES} UTF-8 bytes, got {term!r} ({size} bytes); "
                "doc_encoder(terms='safe') makes such terms"
            )
        if "\0" in term or max(term) > "\uffff":
            raise ValueError(
                f"engine 'terrier' cannot look up terms with NUL or characters above U+FFFF, got {term!r}; "
                "doc_encoder(terms='safe') makes terms that it can"
            )

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        feed = folder / "feed.jsonl"
        feed_lines(feed, _lines(stream), lambda: _single_pass(feed, folder))
        feed.unlink()
        longest = max(map(len, stream.docnos))
        if longest > _KEY_LENGTH:
            _rewrite_docnos(folder, stream.docnos, longest)
        index = pt.terrier.TerrierIndex(folder).index_obj()
        stats = index.getCollectionStatistics()
        written = (stats.getNumberOfDocuments(), stats.getNumberOfPointers())
        terms = stats.getNumberOfUniqueTerms()
        index.close()
        if written != (len(stream.docnos), stream.postings):
            raise RuntimeError(
                f"Terrier wrote {written[0]} documents with {written[1]} postings of the {len(stream.docnos)} "
                f"documents with {stream.postings} postings it was given"
            )
        return {"terms": terms}

    def _load(self, meta: dict) -> TerrierSearcher:
        return TerrierSearcher(self.path, meta["scale"])


class TerrierSearcher(Searcher):
    """An opened Terrier index, asked with weighted terms directly (no query language, no stemming, no stopwords)."""

    def __init__(self, path: Path, scale: float):
        self.docnos, self.ranks = storage.read_docnos(path)
        self.scale = scale
        self.manager = pt.terrier.TerrierIndex(os.path.realpath(path)).tf().manager
        self.query_terms = pt.java.autoclass("org.terrier.matching.MatchingQueryTerms")

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """See `Searcher`."""
        largest = max(weights.values())
        # Terrier breaks ties by document number: ask for some more, until what is cut off scores less.
        wanted = num_results + 16
        while True:
            numbers, scores = self._match({t: w / largest for t, w in weights.items()}, wanted)
            if len(numbers) < wanted or scores[num_results - 1] * (1 - 1e-9) > scores[-1]:
                break
            wanted *= 2
        # Terrier divides the weights by the largest once more, which is 1 now.
        return order_by_score(numbers, scores * (largest / self.scale), self.ranks, num_results)

    def _match(self, weights: dict[str, float], num_results: int) -> Result:
        request = pt.java.cast("org.terrier.querying.Request", self.manager.newSearchRequest("q"))
        terms = self.query_terms("q", request)
        for term, weight in weights.items():
            terms.setTermProperty(term, weight)
        request.setMatchingQueryTerms(terms)
        for control in _CONTROLS_OFF:
            request.setControl(control, "off")
        for control in ("localmatching", "filters"):
            request.setControl(control, "on")
        request.setControl("wmodel", "Tf")
        request.setControl("end", str(num_results - 1))
        self.manager.runSearchRequest(request)
        found = request.getResultSet()
        return np.array(found.getDocids(), dtype=np.int64), np.array(found.getScores(), dtype=np.float64)


def _lines(stream: DocumentStream):
    for docno, toks in stream:
        # ASCII only, so that the JVM's charset does not matter; short, as the reader in Java is what takes the time.
        yield json.dumps({"docno": docno, "toks": toks}, separators=(",", ":")).encode("ascii") + b"\n"
    stream.require_terms()


def _single_pass(feed: Path, folder: Path) -> None:
    """Index what is read from `feed`; PyTerrier's own pretokenised indexer takes two passes and a direct index."""
    terrier = pt.terrier.J
    properties = pt.java.J.Properties()
    for key, value in {
        "termpipelines": "",
        "indexer.meta.forward.keys": "docno",
        "indexer.meta.forward.keylens": str(_KEY_LENGTH),
        "indexer.meta.reverse.keys": "",
        "metaindex.compressed.crop.long": "true",
        "FieldTags.process": "",
    }.items():
        properties.put(key, value)
    terrier.ApplicationSetup.getProperties().putAll(properties)
    documents = terrier.JsonlPretokenisedIterator(str(feed))
    terrier.ParallelIndexer.buildParallelTokenised(
        [documents], os.path.realpath(folder), terrier.BasicSinglePassIndexer, terrier.StructureMerger
    )


def _rewrite_docnos(folder: Path, docnos: list[str], longest: int) -> None:
    """Give Terrier's metadata the docnos that it cropped: their length is only known in the end."""
    index = pt.terrier.J.IndexOnDisk.createIndex(os.path.realpath(folder), "data")
    builder = pt.java.autoclass("org.terrier.structures.indexing.ZstdMetaIndexBuilder")
    metadata = builder(index, ["docno"], [longest], [])
    for docno in docnos:
        metadata.writeDocumentEntry([docno])
    metadata.close()
    index.flush()
    index.close()
