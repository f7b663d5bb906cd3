"""ONNX graphs give what encode_docs and encode_queries give, in onnxruntime; the folder is an encoder's still."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from transformers import AutoTokenizer

from pyterrier_rescale import Splade, calibrate
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TEXTS = [*tiny.TEXTS, " ".join(tiny.TEXTS)]


def by_onnx(folder, name="model", texts=TEXTS):
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    return onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx").run(["weights"], dict(tokens))[0]


EVERYTHING = {"pooling": "sum", "activation": "log1p_relu", "special_positions": False, "shift": 0.1,
              "position_top_k": 40}  # fmt: skip
LOCAL = {"global_attn_every_n_layers": 2, "local_attention": 8, "num_hidden_layers": 3}
SLOW = [("roberta", {}, {"rescale": 4.0}), ("bert", {}, EVERYTHING), ("modernbert", LOCAL, {}),
        ("bert", {}, "calibrated"), ("qwen", {}, {"attention": "bidirectional"}), ("qwen", {}, {})]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "settings", "options"),
    [("modernbert", {"padding_rows": 8}, {"position_top_k": 12, "fold": "case", "rescale": 2.0}),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)  # fmt: skip
def test_graphs_give_the_encoders_weights(family, settings, options, tmp_path):
    model, tokenizer = tiny.qwen() if family == "qwen" else tiny.build(family, **settings)
    if options == "calibrated":
        model, options = calibrate(model, TEXTS, tokenizer=tokenizer, rate=0.3).apply(model), {}
    splade = Splade(model, tokenizer=tokenizer, max_length=64, **options)
    splade.export_onnx(tmp_path / "m", int8=True)
    for texts in (TEXTS, TEXTS[:1]):
        np.testing.assert_allclose(by_onnx(tmp_path / "m", texts=texts), splade.encode_docs(texts).toarray(), atol=1e-4)
    graph = onnx.load(tmp_path / "m" / "onnx" / "model.onnx")  # OpenSearch's onnxruntime 1.16 needs both
    assert graph.opset_import[0].version == 18
    assert all(len(node.input) == 3 for node in graph.graph.node if node.op_type == "LayerNormalization")
    assert by_onnx(tmp_path / "m", "model_quantized").shape == (len(TEXTS), splade.encoder.vocab_size)
    assert Splade(tmp_path / "m") == splade and "## ONNX" in (tmp_path / "m" / "README.md").read_text()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        splade.export_onnx(tmp_path / "m")
    with pytest.raises(FileExistsError, match="holds ONNX graphs of another encoder"):
        splade.save_pretrained(tmp_path / "m")


@pytest.mark.slow
def test_queries_that_are_pooled_otherwise_have_a_graph(tmp_path):
    model, tokenizer = tiny.build("bert")
    save_encoder(tmp_path / "m", model, tokenizer, Description(max_length=64, queries=QuerySide(pooling="sum")))
    splade = Splade(tmp_path / "m")
    splade.export_onnx(tmp_path / "n")
    found = by_onnx(tmp_path / "n", "query_model")
    np.testing.assert_allclose(found, splade.encode_queries(TEXTS).toarray(), atol=1e-4)
