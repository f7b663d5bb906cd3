"""An encoder as an ONNX graph: token ids and mask in, term weights (B, V) out; pooling and all options inside."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import Tensor

from .._utils.files import whole_folder
from ..heads.decoder import probe_ids
from .kernel import pooled_positions
from .model_card import CARD_FILE, ONNX_SECTION
from .saved_folder import save_encoder
from .terms import fold_weights
from .text_encoder import TextEncoder

_INPUTS = ["input_ids", "attention_mask"]
_MOST_BYTES = 1 << 31  # of a file of protocol buffers; the weights of larger models lie beside it


class _Graph(torch.nn.Module):
    """The plain formula over all logits; a bias, and with it a shift, is the model's own."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.model = copy.deepcopy(encoder.model).float().cpu()
        for norm in self.model.modules():  # onnxruntime up to 1.18 aborts at one that has no bias
            if isinstance(norm, torch.nn.LayerNorm) and norm.elementwise_affine and norm.bias is None:
                norm.bias = torch.nn.Parameter(torch.zeros_like(norm.weight))
        self.how, self.special_ids = encoder.description, encoder.tokenizer.all_special_ids
        folding = encoder.folding
        self.register_buffer("folded", None if folding is None else torch.from_numpy(folding.representatives))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        top = self.how.position_top_k
        if top is not None and top < logits.shape[2]:
            logits = logits.masked_fill(logits < logits.topk(top, dim=2).values[..., -1:], 0)
        counted = pooled_positions(self.how, input_ids, attention_mask, self.special_ids)[..., None]
        weights = logits.relu() * counted
        if self.how.pooling == "max":
            weights = weights.amax(dim=1)
        weights = weights.log1p()
        if self.how.activation == "log1p_relu":
            weights = weights.log1p()
        return fold_weights(weights if self.how.pooling == "max" else weights.sum(dim=1), self.folded)


def export_encoder(encoder: TextEncoder, path: str | os.PathLike[str], *, int8: bool = False) -> None:
    """Save an encoder's folder with ``onnx/model.onnx``, and ``onnx/query_model.onnx`` where queries have their own.

    With ``int8`` smaller files ``*_quantized.onnx``, too. The tokenizer gives the graphs' inputs and no others.
    """
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_input_names = _INPUTS
    graphs, queries = {"model.onnx": encoder}, encoder.of_queries()
    if isinstance(queries, TextEncoder) and not encoder.description.queries.alike:
        graphs["query_model.onnx"] = queries
    with whole_folder(path) as folder:
        save_encoder(folder, encoder.model, tokenizer, encoder.description)
        with open(folder / CARD_FILE, "a", encoding="utf-8") as file:
            file.write(ONNX_SECTION)
        (folder / "onnx").mkdir()
        for name, side in graphs.items():
            _write_graph(_Graph(side).eval(), folder / "onnx" / name, int8)


def _write_graph(graph: _Graph, file: Path, int8: bool) -> None:
    ids = probe_ids(graph.model).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    large = sum(parameter.nbytes for parameter in graph.parameters()) >= _MOST_BYTES
    with torch.inference_mode():
        torch.onnx.export(
            graph, (ids, mask), file, input_names=_INPUTS, output_names=["weights"], dynamo=True, verbose=False,
            dynamic_shapes=dict.fromkeys(_INPUTS, sizes), external_data=large,
            opset_version=18,  # for older runtimes, too: OpenSearch's knows none above 19
        )  # fmt: skip
    if int8:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(file, file.with_stem(f"{file.stem}_quantized"), use_external_data_format=large)
