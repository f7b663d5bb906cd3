"""What half precision costs: an encoder's nDCG@10 and terms with its body in float32 and in bfloat16.

    python experiments/speed/half.py ENCODER COLLECTION [COLLECTION ...]

Test topics; scores are exact dot products of the vectors.
"""

from __future__ import annotations

import argparse

import ir_measures
from ir_measures import nDCG

from pyterrier_rescale import Splade, load_collection


def main() -> None:
    """A line per collection and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("collections", nargs="+")
    options = parser.parse_args()
    for name in options.collections:
        collection = load_collection(name)
        documents, topics = list(collection.corpus()), collection.topics("test")
        qrels = collection.qrels("test").rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        topics = topics[topics["qid"].isin(set(qrels["query_id"]))]
        for dtype in (None, "bfloat16"):
            splade = Splade(options.encoder, dtype=dtype)
            vectors = splade.encode_docs([document["text"] for document in documents])
            scores = (splade.encode_queries(topics["query"].tolist()) @ vectors.T).toarray()
            run = [
                ir_measures.ScoredDoc(qid, documents[place]["docno"], float(row[place]))
                for qid, row in zip(topics["qid"], scores, strict=True)
                for place in (-row).argsort(kind="stable")[:10]
                if row[place] > 0
            ]
            ndcg = ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]
            terms = vectors.nnz / len(documents)
            print(f"{collection.name}, {dtype or 'float32'}: nDCG@10 {ndcg:.4f}, {terms:.1f} terms per document")


if __name__ == "__main__":
    main()
