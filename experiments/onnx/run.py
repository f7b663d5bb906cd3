"""ONNX exports in other tools: the largest difference to encode_docs, by family, head and tool; see README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

from pyterrier_rescale import Splade, calibrate, rescale

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", type=Path, help="folder in which @huggingface/transformers is installed")
    arguments = parser.parse_args()
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
