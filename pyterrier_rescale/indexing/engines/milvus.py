"""Engine "milvus": sparse inner products in Milvus (the extra `milvus`): embedded, or in a cluster.

The collection holds a row per document: its number and its vector of whole weights. Docnos, terms and the manifest are
the store's. Where the environment variable MILVUS_URI names a cluster when the index is built, the collection lies
there (MILVUS_TOKEN has its token); else in a file in the index's folder, which one process at a time can open.
"""

from __future__ import annotations

import json
import os
import weakref
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..generation import Generation
from ..store import LIVE
from .base import LibraryEngine, Result

_WHERE = "milvus.json"
_EMPTY = 2**32 - 2  # the dimension of documents without terms, which Milvus does not take; no query asks for it
_ROWS = 1000  # sent at a time


class MilvusEngine(LibraryEngine):
    """A collection of Milvus. Scores are float32: equal to engine exact's to six digits."""

    name = "milvus"
    batch, most_results = 64, 16_384
    needs_terms = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        where = json.loads((folder / _WHERE).read_text())
        self._client, self._collection = _client(folder, where["uri"]), where["collection"]
        weakref.finalize(self, self._client.close).atexit = False
        self._client.load_collection(self._collection)

    @classmethod
    def build(cls, folder: Path, generation: Generation) -> None:
        """See ``Engine``."""
        from pymilvus import DataType

        uri, collection = os.environ.get("MILVUS_URI"), f"rescale_{generation.folder.name.replace('-', '_')}"
        client = _client(folder, uri)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.SPARSE_FLOAT_VECTOR)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")
        numbers = count()
        rows = (
            {"id": next(numbers), "vector": dict(zip(columns[begin:end], weights[begin:end], strict=True))}
            for vectors in generation.whole_blocks()
            for columns, weights in [(vectors.indices.tolist(), vectors.data.astype(float).tolist())]
            for begin, end in pairwise(vectors.indptr.tolist())
        )
        filled = (row if row["vector"] else {**row, "vector": {_EMPTY: 1.0}} for row in rows)
        while part := list(islice(filled, _ROWS)):
            client.insert(collection, part)
        client.flush(collection)
        client.load_collection(collection)
        held = client.query(collection, filter="id >= 0", output_fields=["count(*)"])[0]["count(*)"]
        client.close()
        if held != next(numbers):
            raise RuntimeError(f"Milvus holds {held} of {generation.content['documents']} documents")
        (folder / _WHERE).write_text(json.dumps({"uri": uri, "collection": collection}))

    def prepare(self, weights: dict[str, float]) -> tuple[dict[int, float], float]:
        """See ``LibraryEngine``."""
        return self.generation.known(weights), 1 / self.scale

    def match(self, queries: list[dict[int, float]], k: int) -> list[Result]:
        """See ``LibraryEngine``; scores are rounded to six digits of the largest: equal sums of float32 differ."""
        results = []
        options = {"anns_field": "vector", "limit": k, "search_params": {"metric_type": "IP"}}
        for hits in self._client.search(self._collection, data=queries, **options):
            numbers = np.array([hit["id"] for hit in hits if hit["distance"] > 0], dtype=np.int64)
            scores = np.array([hit["distance"] for hit in hits if hit["distance"] > 0])
            digits = 6 - int(np.ceil(np.log10(scores.max(initial=1e-300))))
            results.append((numbers, np.round(scores, digits)))
        return results


def _client(folder: Path, uri: str | None) -> Any:
    from pymilvus import MilvusClient

    (folder / LIVE).mkdir(exist_ok=True)
    return MilvusClient(uri or str(folder / LIVE / "milvus.db"), token=os.environ.get("MILVUS_TOKEN", ""))
