"""Engine "terrier": an inverted index that Terrier writes itself, searched through PyTerrier's Java."""

from __future__ import annotations

import os
import re
import threading
import weakref
from pathlib import Path

import numpy as np
import pyterrier as pt

from ..._utils.java import index_by_terrier, start_java, terrier_statistic
from ..generation import Generation
from .base import LibraryEngine, Result

# Three for each of the 20 characters that Terrier's lexicon reserves: longer terms damage it.
_MAX_TERM_BYTES = 60
_CONTROLS_OFF = ("terrierql", "parsecontrols", "parseql", "matchopql", "applypipeline", "decorate", "decorate_batch")


class TerrierEngine(LibraryEngine):
    """A Terrier index of whole weights; plain PyTerrier reads it, too: ``pt.terrier.TerrierIndex(index.engine_path)``.

    It is asked with weighted terms directly (no query language, no stemming, no stopwords). Threads take turns: Terrier
    decodes the postings of one opened index in place.
    """

    name = "terrier"

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        start_java()
        self._index = pt.terrier.TerrierIndex(os.path.realpath(folder)).index_obj()
        self._manager = pt.terrier.Retriever(self._index, wmodel="Tf").manager
        self._query_terms = pt.java.autoclass("org.terrier.matching.MatchingQueryTerms")
        self._turn = threading.Lock()
        # Java would hold the files open for good
        weakref.finalize(self, lambda index: index.close(), self._index).atexit = False

    @classmethod
    def check_term(cls, term: str) -> None:
        """See ``Engine``."""
        if not 1 <= len(term.encode("utf-8")) <= _MAX_TERM_BYTES or "\0" in term or max(term) > "\uffff":
            raise ValueError(
                f"engine 'terrier' holds terms of 1 to {_MAX_TERM_BYTES} UTF-8 bytes without NUL and characters above "
                f"U+FFFF, got {term!r}; doc_encoder(terms='safe') makes such terms"
            )

    @classmethod
    def build(cls, folder: Path, generation: Generation) -> None:
        """See ``Engine``."""
        start_java()
        docnos = generation.docnos.to_pylist()
        given = {
            "Documents": len(docnos),
            "Pointers": int(generation.document_frequencies.sum()),
            "Tokens": sum(int(vectors.data.sum()) for vectors in generation.whole_blocks()),
        }
        indexer = pt.terrier.IterDictIndexer(
            str(folder), meta={"docno": max(len(docno.encode("utf-16-le")) // 2 for docno in docnos)}, meta_reverse=[],
            pretokenised=True, type=pt.terrier.IndexingType.SINGLEPASS,
        )  # fmt: skip
        pairs = zip(docnos, generation.toks(), strict=True)
        index_by_terrier(indexer, ({"docno": docno, "toks": dict(toks)} for docno, toks in pairs))
        held = {name: terrier_statistic(folder, name) for name in given}
        if held != given:
            raise RuntimeError(f"Terrier's index does not hold what it was given: {held} of {given}")
        # On disk, where Terrier leaves it, each look-up of a term is a search in a file.
        file = folder / "data.properties"
        properties = file.read_text(encoding="latin-1")
        properties = re.sub(r"^(index\.lexicon\.data-source)=.*", r"\1=fileinmem", properties, flags=re.MULTILINE)
        file.write_text(properties, encoding="latin-1")

    def prepare(self, weights: dict[str, float]) -> tuple[dict[str, float], float]:
        """See ``LibraryEngine``; Terrier divides the weights by the largest, which is 1 already."""
        largest = max(weights.values())
        return {term: weight / largest for term, weight in weights.items()}, largest / self.scale

    def match(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        """See ``LibraryEngine``; of one query, as ``batch`` says."""
        with self._turn:
            request = pt.java.cast("org.terrier.querying.Request", self._manager.newSearchRequest("q"))
            terms = self._query_terms("q", request)
            for term, weight in queries[0].items():
                terms.setTermProperty(term, weight)
            request.setMatchingQueryTerms(terms)
            controls = {**dict.fromkeys(_CONTROLS_OFF, "off"), "localmatching": "on", "filters": "on", "wmodel": "Tf"}
            for control, value in {**controls, "end": str(k - 1)}.items():
                request.setControl(control, value)
            self._manager.runSearchRequest(request)
            found = request.getResultSet()
            return [(np.array(found.getDocids(), dtype=np.int64), np.array(found.getScores(), dtype=np.float64))]
