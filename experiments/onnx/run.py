"""ONNX exports in other tools: the largest difference to encode_docs, by family, head and tool; see README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import onnxruntime
from scipy.sparse import csr_matrix, vstack
from transformers import AutoTokenizer

from pyterrier_rescale import Splade, calibrate, load_collection, rescale

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))
import tiny  # noqa: E402


def by_onnxruntime(folder: Path, texts: list[str]) -> np.ndarray:
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    return onnxruntime.InferenceSession(folder / "onnx" / "model.onnx").run(["weights"], dict(tokens))[0]


def by_node(folder: Path, texts: list[str], modules: Path) -> np.ndarray:
    script = modules / "encode.mjs"  # node looks for packages beside the script
    script.write_text((HERE / "encode.mjs").read_text())
    done = subprocess.run(
        ["node", script, folder, "fp32"], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    return np.array(json.loads(done.stdout))


def by_sparse_encoder(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SparseEncoder

    return np.asarray(SparseEncoder(str(folder), device="cpu").encode(texts, convert_to_sparse_tensor=False))


def by_graph(folder: Path, name: str, texts: list[str]) -> csr_matrix:
    """Weights (N, V) in batches of 8 texts of like lengths."""
    tokenizer, session = AutoTokenizer.from_pretrained(folder), onnxruntime.InferenceSession(folder / "onnx" / name)
    order, parts = np.argsort([len(text) for text in texts]), []
    for some in np.array_split(order, -(-len(texts) // 8)):
        batch = [texts[place] for place in some]
        tokens = tokenizer(batch, padding=True, truncation=True, return_tensors="np")
        parts.append(csr_matrix(session.run(["weights"], dict(tokens))[0]))
    return vstack(parts, format="csr")[np.argsort(order)]


def compare_graphs(encoder: str, name: str) -> None:
    """NDCG@10 on a collection, in full precision and in eight bits."""
    collection = load_collection(name)
    documents, topics = list(collection.corpus()), collection.topics("test")
    qrels = collection.qrels("test").set_axis(["query_id", "doc_id", "relevance"], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        Splade(encoder, max_length=128).export_onnx(Path(folder, "m"), int8=True)
        for graph in ("model.onnx", "model_quantized.onnx"):
            vectors = by_graph(Path(folder, "m"), graph, [one["text"] for one in documents])
            scores = (by_graph(Path(folder, "m"), graph, topics["query"].tolist()) @ vectors.T).toarray()
            run = [
                ir_measures.ScoredDoc(qid, documents[place]["docno"], float(row[place]))
                for qid, row in zip(topics["qid"], scores, strict=True) for place in np.argsort(-row)[:10]
            ]  # fmt: skip
            size = Path(folder, "m", "onnx", graph).stat().st_size / 1e6
            print(graph, ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run), f"{size:.1f} MB", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", type=Path, help="folder in which @huggingface/transformers is installed")
    parser.add_argument("--encoder", help="with --collection: compare precisions by nDCG@10 instead")
    parser.add_argument("--collection")
    arguments = parser.parse_args()
    if arguments.encoder:
        compare_graphs(arguments.encoder, arguments.collection)
        return
    tools = {"onnxruntime": by_onnxruntime, "SparseEncoder": by_sparse_encoder}
    if arguments.node:
        tools["transformers.js"] = lambda folder, texts: by_node(folder, texts, arguments.node.resolve())
    print(f"| family | head | {' | '.join(tools)} |\n{'|---' * (2 + len(tools))}|")
    for family in ("bert", "modernbert", "roberta"):
        model, tokenizer = tiny.build(family)
        heads = {"raw": model, "rescaled": rescale(model, 4.0),
                 "calibrated": calibrate(model, tiny.TEXTS, tokenizer=tokenizer, rate=0.3).apply(model)}  # fmt: skip
        for head, changed in heads.items():
            splade = Splade(changed, tokenizer=tokenizer, max_length=64)
            expected = splade.encode_docs(tiny.TEXTS).toarray()
            with tempfile.TemporaryDirectory() as folder:
                splade.export_onnx(Path(folder, "m"))
                found = [np.abs(tool(Path(folder, "m"), tiny.TEXTS) - expected).max() for tool in tools.values()]
            print(f"| {family} | {head} | {' | '.join(f'{error:.0e}' for error in found)} |", flush=True)


if __name__ == "__main__":
    main()
