"""Engine "pisa": PISA's compressed inverted index with MaxScore, through pyterrier-pisa (the extra `pisa`)."""

from __future__ import annotations

import copy
import importlib
import json
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import storage
from .base import EngineIndex
from .documents import DocumentStream
from .inversion import Inverter
from .postings import Postings
from .quiet import silenced
from .searcher import Result, Searcher, nothing, order_by_score

QUERY_LEVELS = 1000  # whole numbers that a query's weights are rounded to: PISA takes a weight as so many repetitions
_BATCH = 100  # queries per call, which fills arrays of num_results for each


class PisaEngine(EngineIndex):
    """A PISA index of integer weights. PISA knows documents by number here; the docnos are kept beside."""

    ARTIFACT_FORMAT = "rescale_pisa"
    engine = "pisa"

    def _prepare(self) -> None:
        _pisa()

    def _check_term(self, term: str) -> None:
        if not term or term != term.lower() or any(c.isspace() for c in term) or "\0" in term:
            raise ValueError(
                f"engine 'pisa' cannot hold terms that are empty or have upper case letters, white space or NUL, "
                f"got {term!r}; doc_encoder(terms='safe') makes terms that it can"
            )

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        inverter, lengths = Inverter(folder), array("q")
        for _, toks in stream:
            inverter.add(toks)
            lengths.append(sum(toks.values()))
        stream.require_terms()
        inverter.finish()
        _write_collection(folder, np.array(lengths, dtype=np.uint32))
        # PISA compresses on first opening, and opens only what looks finished to it.
        (folder / storage.META_FILE).write_text(json.dumps({"stemmer": "none"}))
        with silenced():
            _retriever(folder, 1)
        for name in ("inv.docs", "inv.freqs", "inv.sizes"):
            (folder / name).unlink()  # the uncompressed collection
        return {"terms": len(inverter.vocabulary)}

    def _build_metadata(self) -> dict[str, Any]:
        return {**super()._build_metadata(), "stemmer": "none"}  # which PisaIndex reads

    def _load(self, meta: dict) -> PisaSearcher:
        return PisaSearcher(self.path, meta["scale"])


class PisaSearcher(Searcher):
    """An opened PISA index."""

    def __init__(self, path: Path, scale: float):
        self.docnos, self.ranks = storage.read_docnos(path)
        self.scale = scale
        self.terms = set((path / "fwd.terms").read_text(encoding="utf-8").split("\n")[:-1])
        self._opened = _retriever(path, 1)

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """See `Searcher`."""
        return self._search_batch([weights], num_results)[0]

    def search_all(
        self, queries: list[dict[str, float]], num_results: int, threads: int, progress: Callable[[Iterable], Iterable]
    ) -> list[Result]:
        """See `Searcher`."""
        batches = (self._search_batch(queries[i : i + _BATCH], num_results) for i in range(0, len(queries), _BATCH))
        return list(progress(result for batch in batches for result in batch))

    def postings(self) -> Postings:
        """Asked for term by term: PISA has no other way to read its compressed lists (eight bytes per posting)."""
        terms = sorted(self.terms)
        lists: dict[str, Result] = {}
        todo, wanted = terms, _BATCH
        while todo:
            longer = []
            size = max(1, 2**22 // wanted)  # PISA fills arrays of `wanted` for each query of a batch
            for batch in (todo[i : i + size] for i in range(0, len(todo), size)):
                for term, found in zip(batch, self._match([{term: 1.0} for term in batch], wanted), strict=True):
                    if len(found[0]) == wanted:
                        longer.append(term)  # it may have more
                    else:
                        lists[term] = found
            todo, wanted = longer, wanted * 8
        indptr = np.concatenate([[0], np.cumsum([len(lists[term][0]) for term in terms])])
        documents, weights = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.int32)
        for term, begin in zip(terms, indptr[:-1].tolist(), strict=True):
            numbers, scores = lists.pop(term)
            order = np.argsort(numbers)
            documents[begin : begin + len(order)] = numbers[order]
            weights[begin : begin + len(order)] = scores[order]
        return Postings(np.array(terms, dtype=object), indptr, documents, weights)

    def _search_batch(self, queries: list[dict[str, float]], num_results: int) -> list[Result]:
        rounded, units = zip(*(self._rounded(query) for query in queries), strict=True)
        results: list[Result] = [nothing()] * len(queries)
        todo, wanted = [i for i, query in enumerate(rounded) if query], num_results + 16
        while todo:
            # PISA breaks ties by document number: ask for more where what is cut off scores as much as what is kept.
            undecided = []
            for i, (numbers, scores) in zip(todo, self._match([rounded[i] for i in todo], wanted), strict=True):
                if len(numbers) == wanted and scores[num_results - 1] == scores[-1]:
                    undecided.append(i)
                else:
                    results[i] = order_by_score(numbers, scores * (units[i] / self.scale), self.ranks, num_results)
            todo, wanted = undecided, wanted * 2
        return results

    def _rounded(self, query: dict[str, float]) -> tuple[dict[str, float], float]:
        """The query in whole multiples of a unit, and that unit; terms PISA would alter or not find left out."""
        known = {t: w for t, w in query.items() if t in self.terms}
        unit = max(known.values(), default=1.0) / QUERY_LEVELS
        whole = {t: float(round(w / unit)) for t, w in known.items()}
        return {t: w for t, w in whole.items() if w}, unit

    def _match(self, queries: list[dict[str, float]], num_results: int) -> list[Result]:
        retriever = copy.copy(self._opened)  # with the same opened files, and a number of results of its own
        retriever.num_results = num_results
        frame = pd.DataFrame({"qid": [str(i) for i in range(len(queries))], "query_toks": queries})
        found = retriever.transform(frame)
        numbers = found["docno"].to_numpy().astype(np.int64)
        scores = found["score"].to_numpy().astype(np.float64)
        ends = np.cumsum(np.bincount(found["qid"].astype(int), minlength=len(queries)))
        return list(zip(np.split(numbers, ends[:-1]), np.split(scores, ends[:-1]), strict=True))


def _pisa() -> Any:
    try:
        return importlib.import_module("pyterrier_pisa")
    except ImportError as error:
        raise ImportError(
            f"engine 'pisa' needs pyterrier-pisa: pip install pyterrier-rescale[pisa] ({error})"
        ) from error


def _retriever(folder: Path, num_results: int) -> Any:
    """PISA's own retriever on weights: no stemming, no stopwords, and no second scaling."""
    index = _pisa().PisaIndex(str(folder), stemmer="none", stops="none")
    return index.quantized(num_results=num_results, query_algorithm="maxscore", toks_scale=1.0)


def _write_collection(folder: Path, lengths: np.ndarray) -> None:
    """Turn the inverter's files into PISA's uncompressed collection: sequences of uint32, each after its length."""
    vocabulary, indptr, documents, weights = Inverter.read(folder)
    terms = sorted(vocabulary)
    with open(folder / "inv.docs", "wb") as docs, open(folder / "inv.freqs", "wb") as freqs:
        docs.write(np.array([1, len(lengths)], dtype=np.uint32).tobytes())
        for term in terms:
            a, b = indptr[vocabulary[term]], indptr[vocabulary[term] + 1]
            for out, values in ((docs, documents), (freqs, weights)):
                out.write(np.uint32(b - a).tobytes())
                out.write(values[a:b].astype(np.uint32).tobytes())
    with open(folder / "inv.sizes", "wb") as sizes:
        sizes.write(np.uint32(len(lengths)).tobytes() + lengths.tobytes())
    del documents, weights
    Inverter.remove(folder)
    native = importlib.import_module("pyterrier_pisa._pisathon")
    for name, lexicon, lines in (("terms", "termlex", terms), ("documents", "doclex", map(str, range(len(lengths))))):
        with open(folder / f"fwd.{name}", "w", encoding="utf-8", newline="\n") as out:
            out.writelines(f"{line}\n" for line in lines)
        native.build_binlex(str(folder / f"fwd.{name}"), str(folder / f"fwd.{lexicon}"))
