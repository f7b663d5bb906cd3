"""Engine "milvus": sparse inner products in Milvus (the extra `milvus`): embedded, or in a cluster.

The collection holds a row per document: its number and its vector of whole weights. Docnos, terms and the manifest are
the store's. Where the environment variable MILVUS_URI names a cluster when the index is built, the collection lies
there (MILVUS_TOKEN has its token); else in a file in the index's folder, which one process at a time can open.
"""

from __future__ import annotations

import itertools
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..generation import Generation
from .base import Engine, Result, nothing, order_by_score

_WHERE, _FILE = "milvus.json", "milvus.db"
MOST_RESULTS = 16_384  # of a query, in Milvus
_EMPTY = 2**32 - 2  # the dimension of documents without terms, which Milvus does not take; no query asks for it
_ROWS, _QUERIES = 1000, 64


class MilvusEngine(Engine):
    """A collection of Milvus. Scores are float32: equal to engine exact's to six digits, which each build checks."""

    name = "milvus"
    needs_terms = False
    listed = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        where = json.loads((folder / _WHERE).read_text())
        self._client, self._collection = _client(folder, where["uri"]), where["collection"]
        weakref.finalize(self, self._client.close).atexit = False
        self._client.load_collection(self._collection)

    @classmethod
    def build(cls, folder: Path, generation: Generation, **options: Any) -> None:
        """See ``Engine``."""
        uri, collection = os.environ.get("MILVUS_URI"), f"rescale_{generation.folder.name.replace('-', '_')}"
        client = _client(folder, uri)
        _create(client, collection)
        number, checks = 0, []
        for vectors in generation.whole_blocks():
            rows = []
            columns, data = vectors.indices.tolist(), vectors.data.astype(float).tolist()
            for begin, end in itertools.pairwise(vectors.indptr.tolist()):
                weights = dict(zip(columns[begin:end], data[begin:end], strict=True))
                rows.append({"id": number, "vector": weights or {_EMPTY: 1.0}})
                number += 1
            for first in range(0, len(rows), _ROWS):
                client.insert(collection, rows[first : first + _ROWS])
            checks = (checks + rows)[:4]
        client.flush(collection)
        client.load_collection(collection)
        count = client.query(collection, filter="id >= 0", output_fields=["count(*)"])[0]["count(*)"]
        if count != number:
            raise RuntimeError(f"Milvus holds {count} of {number} documents")
        _check_scores(client, collection, checks)
        client.close()
        (folder / _WHERE).write_text(json.dumps({"uri": uri, "collection": collection}))

    def search(self, weights: dict[str, float], k: int, **options: Any) -> Result:
        """See ``Engine``."""
        return self._search_batch([weights], k)[0]

    def search_all(
        self, queries: list[dict[str, float]], k: int, threads: int = 1, **options: Any
    ) -> Iterator[Result]:
        """See ``Engine``."""
        for first in range(0, len(queries), _QUERIES):
            yield from self._search_batch(queries[first : first + _QUERIES], k)

    def _search_batch(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        if k > MOST_RESULTS:
            raise ValueError(f"num_results must be at most {MOST_RESULTS} with engine 'milvus', got {k}")
        columns = self.generation.columns
        vectors = [{columns[t]: w for t, w in query.items() if t in columns} for query in queries]
        results: list[Result] = [nothing()] * len(queries)
        todo, wanted = [i for i, vector in enumerate(vectors) if vector], min(k + 16, MOST_RESULTS)
        while todo:
            # Milvus breaks ties by number: ask for more where what is cut off scores as much as what is kept.
            undecided, asked, count = [], [vectors[i] for i in todo], wanted
            for i, hits in zip(todo, _search(self._client, self._collection, asked, count), strict=True):
                numbers = np.array([hit["id"] for hit in hits], dtype=np.int64)
                scores = np.array([hit["distance"] for hit in hits], dtype=np.float64)
                numbers, scores = numbers[scores > 0], _six_digits(scores[scores > 0])
                if len(scores) == wanted < MOST_RESULTS and scores[k - 1] == scores[-1]:
                    undecided.append(i)
                else:
                    results[i] = order_by_score(numbers, scores / self.scale, self.generation.ranks, k)
            todo, wanted = undecided, min(wanted * 2, MOST_RESULTS)
        return results


def _client(folder: Path, uri: str | None) -> Any:
    from pymilvus import MilvusClient

    token = os.environ.get("MILVUS_TOKEN", "")
    return MilvusClient(uri or str(folder / _FILE), **({"token": token} if token else {}))


def _create(client: Any, name: str) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _search(client: Any, name: str, vectors: list[dict[int, float]], count: int, condition: str = "") -> list:
    options = {"anns_field": "vector", "limit": count, "filter": condition, "search_params": {"metric_type": "IP"}}
    return client.search(name, data=vectors, **options)


def _check_scores(client: Any, name: str, rows: list[dict]) -> None:
    """Refuse a Milvus whose scores are not the inner products, by some documents asked for by their own weights."""
    for row in rows:
        expected = sum(weight**2 for weight in row["vector"].values())
        hits = _search(client, name, [row["vector"]], 1, f"id == {row['id']}")[0]
        score = hits[0]["distance"] if hits else None
        if score is None or abs(score - expected) > 1e-3 * expected:
            raise RuntimeError(f"Milvus gives document {row['id']} the score {score}, its inner product is {expected}")


def _six_digits(scores: np.ndarray) -> np.ndarray:
    """Scores in six digits of the largest: sums of float32 that are equal differ in their last bits."""
    return np.round(scores, 6 - int(np.ceil(np.log10(scores.max())))) if len(scores) else scores
