"""The model card of a saved encoder, with the metadata that model hubs read; training adds what a run looked like."""

from __future__ import annotations

from typing import Any

from ..heads.provenance import provenance
from .description import Description

CARD_FILE = "README.md"
CARD = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
{base_model}tags:
- sparse-encoder
- splade
- pyterrier
- pyterrier_rescale
---

# SPLADE from {name}

A sparse encoder made by `pyterrier_rescale`; its masked-LM head was {head}.{own}

```python
from pyterrier_rescale import Splade
splade = Splade("this folder")
splade.encode_docs(["a text"])  # scipy CSR, column = token id

from sentence_transformers import SparseEncoder
SparseEncoder("this folder").encode_document(["a text"])  # encode_query for queries
```
"""
ONNX_SECTION = """
## ONNX

Term weights (B, V) of documents, with pooling and activation in the graph; `onnx/query_model.onnx`, if there, gives
those of queries.

```python
import onnxruntime
from transformers import AutoTokenizer
tokens = AutoTokenizer.from_pretrained("this folder")(["a text"], padding=True, truncation=True, return_tensors="np")
onnxruntime.InferenceSession("this folder/onnx/model.onnx").run(["weights"], dict(tokens))[0]
```
"""


def card(model: Any, description: Description) -> str:
    """What an encoder is, where nothing is known of its training."""
    changed = description.changed()
    own = [f"`{name}={changed[name]!r}`" for name in ("position_top_k", "fold", "special_positions") if name in changed]
    followed = f" `Splade` follows its {', '.join(own)}; other tools ignore that." if own else ""
    head = head_in_words(provenance(model) or {})
    return CARD.format(base_model="", name=type(model).__name__, head=head, own=followed)


def head_in_words(record: dict[str, Any]) -> str:
    """What a model's configuration says was done to its head."""
    how = "not rescaled"
    if "k" in record:
        how = f"rescaled (arXiv:2606.18811, {record.get('method')}, k = {record['k']:.4g})"
    shift = record.get("shift")
    if shift is not None:
        how += f", its logits lowered ({shift if isinstance(shift, str) else f'by {shift:g}'}, stored in the bias)"
    return how
