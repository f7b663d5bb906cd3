"""Engine "milvus": sparse inner products in Milvus (the extra `milvus`), embedded in a .db folder or a cluster by URL.

A collection holds a row per document: number, docno, vector of whole weights. Rows of negative numbers hold what other
engines keep in files: the manifest (row -1, written last) and the terms by number. The name asked for is an alias that
goes over to a new collection when that is whole.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from .base import EngineIndex
from .documents import DocumentStream
from .postings import Postings
from .searcher import Result, Searcher, nothing

DEFAULT_COLLECTION = "pyterrier_rescale"
TOKEN_VARIABLE = "MILVUS_TOKEN"
MOST_RESULTS = 16_384  # of a query, in Milvus
OWN_DIMENSION = 2**32 - 2  # of rows without terms, which Milvus does not take, and of ours; no query asks for it
ATTEMPTS = 5
_ROWS, _QUERIES, _CHUNK = 1000, 64, 40_000  # per call; characters of a row of terms
_MANIFEST = -1
T = TypeVar("T")


class MilvusEngine(EngineIndex):
    """A collection of Milvus: `open_index("file.db", "milvus")` or `open_index("http://host:19530/NAME", "milvus")`.

    A .db folder is opened by one process at a time. A cluster's token is read from the variable MILVUS_TOKEN. Scores
    are float32: equal to the exact engine's to six digits, which is checked on some documents at the end of each build.
    """

    ARTIFACT_FORMAT = "rescale_milvus"
    engine = "milvus"

    def __init__(self, path: str | os.PathLike, *, scale: float | None = None):
        address = os.fspath(path)
        self._uri, _, name = address, "", ""
        if "://" in address:
            scheme, _, rest = address.partition("://")
            host, _, name = rest.partition("/")
            self._uri = f"{scheme}://{host}"
        elif not address.endswith(".db"):
            raise ValueError(f"with engine 'milvus', path must end in .db or be a URL, got {address!r}")
        self.collection = name or DEFAULT_COLLECTION
        super().__init__(path, scale=scale)
        self.path = address if "://" in address else Path(address)

    @classmethod
    def replacing(cls, path: str | os.PathLike, *, scale: float) -> MilvusEngine:
        """See `EngineIndex.replacing`; not for collections, whose manifest tells their scale."""
        return cls(path, scale=scale)

    def _setup(self, scale: float) -> None:
        super()._setup(scale)
        self._client: Any = None

    def _connection(self) -> Any:
        if self._client is None:
            token = os.environ.get(TOKEN_VARIABLE, "")
            self._client = _pymilvus().MilvusClient(self._uri, **({"token": token} if token else {}))
        return self._client

    def _prepare(self) -> None:
        _pymilvus()

    def _stamp_now(self) -> Any:
        meta = self._meta()
        return meta and meta["generation"]

    def _meta(self) -> dict | None:
        if "://" not in self._uri and not os.path.exists(self._uri):
            return None
        if not hasattr(self, "_client"):
            self._client = None
        rows = self._rows(self.collection, f"id == {_MANIFEST}")
        return json.loads(rows[0]["docno"]) if rows else None

    def _rows(self, collection: str, condition: str) -> list[dict]:
        client = self._connection()
        if not _retried(lambda: client.has_collection(collection)):
            return []
        _retried(lambda: client.load_collection(collection))
        return _retried(
            lambda: client.query(collection, filter=condition, output_fields=["id", "docno"], limit=MOST_RESULTS)
        )

    @property
    def built(self) -> bool:
        """Whether a whole collection is there."""
        return self._meta() is not None

    def _read_whole(self, read: Callable[[dict], T]) -> T:
        meta = self._checked_meta(self.scale)
        if meta is None:
            raise FileNotFoundError(
                f"there is no index {self.collection!r} at {self.path}: build it with "
                "(doc_encoder >> index.indexer()).index(docs)"
            )
        return read(meta)

    def _build(
        self, stream_in: Callable[[Path | None], DocumentStream], mode: str, made_from: Any, options: Mapping
    ) -> dict[str, Any]:
        client, before = self._connection(), self._meta()
        if mode == "create" and _retried(lambda: client.has_collection(self.collection)):
            raise FileExistsError(
                f"there is a collection {self.collection!r} at {self.path} already; use indexer(mode='overwrite')"
            )
        if before is None and _retried(lambda: client.has_collection(self.collection)):
            raise FileExistsError(f"the collection {self.collection!r} at {self.path} is no index of pyterrier_rescale")
        new = f"{self.collection}_{uuid.uuid4().hex[:12]}"
        try:
            meta = self._fill(new, stream_in(None), made_from)
            if before is None:
                client.create_alias(new, self.collection)
            else:
                client.alter_alias(new, self.collection)
        except BaseException:
            if client.has_collection(new):
                client.drop_collection(new)
            raise
        if before is not None:
            client.drop_collection(before["collection"])
        return meta

    def _fill(self, name: str, stream: DocumentStream, made_from: Any) -> dict[str, Any]:
        client = self._connection()
        _create(client, name)
        vocabulary: dict[str, int] = {}
        bytes_, checks = 0, []
        documents = enumerate(stream)
        while rows := [
            {"id": i, "docno": docno, "vector": _vector(toks, vocabulary)}
            for i, (docno, toks) in itertools.islice(documents, _ROWS)
        ]:
            _put(client, name, rows)
            bytes_ += sum(8 * len(row["vector"]) + len(row["docno"]) + 8 for row in rows)
            checks += rows[: max(0, 4 - len(checks))]
        terms = json.dumps(list(vocabulary))
        chunks = [terms[i : i + _CHUNK] for i in range(0, len(terms), _CHUNK)]
        own = [{"id": _MANIFEST - 1 - i, "docno": c, "vector": {OWN_DIMENSION: 1.0}} for i, c in enumerate(chunks)]
        for i in range(0, len(own), 100):
            _put(client, name, own[i : i + 100])
        _retried(lambda: client.flush(name))
        _retried(lambda: client.load_collection(name))
        count = _retried(lambda: client.query(name, filter="id >= 0", output_fields=["count(*)"]))[0]["count(*)"]
        if count != len(stream.docnos):
            raise RuntimeError(f"Milvus holds {count} of {len(stream.docnos)} documents")
        _check_scores(client, name, checks)
        meta = {
            **self._manifest(stream, made_from),
            "terms": len(vocabulary), "collection": name, "files": {"collection": bytes_ + len(terms)},
        }  # fmt: skip
        _put(client, name, [{"id": _MANIFEST, "docno": json.dumps(meta), "vector": {OWN_DIMENSION: 1.0}}])
        _retried(lambda: client.flush(name))
        return meta

    def _load(self, meta: dict) -> MilvusSearcher:
        rows = sorted(self._rows(meta["collection"], f"id < {_MANIFEST}"), key=lambda row: -row["id"])
        return MilvusSearcher(self._connection(), meta, json.loads("".join(row["docno"] for row in rows)))

    def close(self) -> None:
        """Let go of the connection; the next query opens it again."""
        super().close()
        if self._client is not None and "://" in self._uri:
            self._client.close()
            self._client = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_client"}


class MilvusSearcher(Searcher):
    """A collection of Milvus; documents are known by docno, not by number."""

    def __init__(self, client: Any, meta: dict, terms: list[str]):
        self.client, self.collection, self.scale = client, meta["collection"], meta["scale"]
        self.vocabulary = {term: number for number, term in enumerate(terms)}
        self.docnos = _Docnos(self, meta["documents"])

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """See `Searcher`; (docnos, scores)."""
        return self._search([weights], num_results)[0]

    def search_all(
        self, queries: list[dict[str, float]], num_results: int, threads: int, progress: Callable[[Iterable], Iterable]
    ) -> list[Result]:
        """See `Searcher`."""
        batches = (self._search(queries[i : i + _QUERIES], num_results) for i in range(0, len(queries), _QUERIES))
        return list(progress(itertools.chain.from_iterable(batches)))

    def _search(self, queries: list[dict[str, float]], num_results: int) -> list[Result]:
        if num_results > MOST_RESULTS:
            raise ValueError(f"num_results must be at most {MOST_RESULTS} with engine 'milvus', got {num_results}")
        vectors = [{self.vocabulary[t]: w for t, w in query.items() if t in self.vocabulary} for query in queries]
        results: list[Result] = [nothing()] * len(queries)
        todo, wanted = [i for i, vector in enumerate(vectors) if vector], min(num_results + 16, MOST_RESULTS)
        while todo:
            # Milvus breaks ties by number: ask for more where what is cut off scores as much as what is kept.
            undecided = []
            asked, count = [vectors[i] for i in todo], wanted
            for i, hits in zip(todo, _search(self.client, self.collection, asked, count), strict=True):
                docnos = np.array([hit["entity"]["docno"] for hit in hits], dtype=object)
                scores = np.array([hit["distance"] for hit in hits], dtype=np.float64)
                kept = scores > 0
                docnos, scores = docnos[kept], _six_digits(scores[kept])
                cut = len(scores) == wanted < MOST_RESULTS and scores[num_results - 1] == scores[-1]
                if cut:
                    undecided.append(i)
                    continue
                order = sorted(range(len(docnos)), key=lambda j: (-scores[j], docnos[j]))[:num_results]  # noqa: B023
                results[i] = docnos[order], scores[order] / self.scale
            todo, wanted = undecided, min(wanted * 2, MOST_RESULTS)
        return results

    def rows(self, fields: list[str]) -> Iterator[dict]:
        """All documents' rows, by number."""
        for first in range(0, self.docnos.count, _ROWS):
            condition = f"id >= {first} && id < {first + _ROWS}"
            found = _retried(
                lambda: self.client.query(self.collection, filter=condition, output_fields=["id", *fields])  # noqa: B023
            )
            yield from sorted(found, key=lambda row: row["id"])

    def postings(self) -> Postings:
        """Read back row by row, into memory."""
        from scipy.sparse import csr_matrix

        vectors = [{t: w for t, w in row["vector"].items() if t != OWN_DIMENSION} for row in self.rows(["vector"])]
        indptr = np.concatenate([[0], np.cumsum([len(vector) for vector in vectors])])
        columns = np.array([t for vector in vectors for t in vector], dtype=np.int64)
        weights = np.rint([w for vector in vectors for w in vector.values()]).astype(np.int64)
        by_term = csr_matrix((weights, columns, indptr), shape=(len(vectors), len(self.vocabulary))).tocsc()
        by_term.sort_indices()
        terms = np.array(list(self.vocabulary), dtype=object)
        return Postings(terms, by_term.indptr.astype(np.int64), by_term.indices, by_term.data)


class _Docnos:
    """Docnos that are their own numbers: `take` gives back what it is given."""

    def __init__(self, searcher: MilvusSearcher, count: int):
        self.searcher, self.count = searcher, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return (row["docno"] for row in self.searcher.rows(["docno"]))

    def take(self, docnos: np.ndarray) -> pd.api.extensions.ExtensionArray:
        return pd.Series(docnos.tolist(), dtype=None if len(docnos) else object).array


def _create(client: Any, name: str) -> None:
    kinds = _pymilvus().DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", kinds.INT64, is_primary=True)
    schema.add_field("docno", kinds.VARCHAR, max_length=65_535)
    schema.add_field("vector", kinds.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _vector(toks: Mapping[str, int], vocabulary: dict[str, int]) -> dict[int, float]:
    vector = {vocabulary.setdefault(term, len(vocabulary)): float(weight) for term, weight in toks.items()}
    return vector or {OWN_DIMENSION: 1.0}


def _put(client: Any, name: str, rows: list[dict]) -> None:
    """Insert rows; again as an upsert after a failure, since some may have arrived."""
    calls = itertools.chain([client.insert], itertools.repeat(client.upsert))
    done = _retried(lambda: next(calls)(name, rows))
    count = done.get("insert_count", done.get("upsert_count"))
    if count != len(rows):
        raise RuntimeError(f"Milvus took {count} of {len(rows)} rows")


def _search(client: Any, name: str, vectors: list[dict[int, float]], count: int, condition: str = "") -> list:
    return _retried(
        lambda: client.search(
            name, data=vectors, anns_field="vector", limit=count, filter=condition, output_fields=["docno"],
            search_params={"metric_type": "IP"},
        )
    )  # fmt: skip


def _check_scores(client: Any, name: str, rows: list[dict]) -> None:
    """Refuse a Milvus whose scores are not the inner products, by some documents asked for by their own weights."""
    for row in rows:
        expected = sum(weight**2 for weight in row["vector"].values())
        hits = _search(client, name, [row["vector"]], 1, f"id == {row['id']}")[0]
        score = hits[0]["distance"] if hits else None
        if score is None or abs(score - expected) > 1e-3 * expected:
            raise RuntimeError(
                f"Milvus gives document {row['docno']!r} the score {score}, its inner product is {expected}"
            )


def _six_digits(scores: np.ndarray) -> np.ndarray:
    """Scores in six digits of the largest: sums of float32 that are equal differ in their last bits."""
    return np.round(scores, 6 - int(np.ceil(np.log10(scores.max())))) if len(scores) else scores


def _retried(call: Callable[[], T]) -> T:
    """The call's result; again, with longer pauses, while Milvus is out of reach or asks for it."""
    for attempt in itertools.count(1):
        try:
            return call()
        except _pymilvus().exceptions.MilvusException as error:
            passing = any(word in str(error).lower() for word in ("unavailable", "timeout", "deadline", "rate limit"))
            if not passing or attempt == ATTEMPTS:
                raise
        time.sleep(0.2 * 2**attempt)
    raise AssertionError


def _pymilvus() -> Any:
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise ImportError(
            f"engine 'milvus' needs pymilvus and milvus-lite: pip install pyterrier-rescale[milvus] ({error})"
        ) from error
