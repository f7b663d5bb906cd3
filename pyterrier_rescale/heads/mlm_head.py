"""Give an encoder without a masked-LM head one that is tied to its embeddings, to be pretrained."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from .checkpoint import load_config, load_tokenizer, no_weight_bars, reading
from .decoder import check_head
from .hub_files import model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_mlm_head(model: Any, tokenizer: Any = None) -> PreTrainedModel:
    """Return the masked LM of an encoder's family, with the encoder's body and a head that is still to be pretrained.

    For a retriever's or classifier's body that is to become a SPLADE encoder. The decoder is tied to the input
    embeddings (copied into it where the family does not tie), its bias is zero. The transform starts at the identity as
    far as the family allows: a square dense layer is I, norms have gain 1 and bias 0; where embeddings are smaller than
    hidden states (ALBERT, ELECTRA), the dense layer is the pseudo-inverse of the body's own projection. T(h) =
    norm(gelu(h)) is not h (on MiniLM their cosine is .94), and such a head names few tokens: pretrain it as a masked LM
    before use (:func:`~pyterrier_rescale.backbones.headed_backbone`).

    Args:
        model: a loaded encoder without a masked-LM head (``PreTrainedModel``, ``SentenceTransformer``; it is left as it
            is), a folder of either, or a hub name.
        tokenizer: its tokenizer, or its name or folder; default: the folder's own, where ``model`` is one.

    Returns:
        The masked LM, in eval mode, float32 unless ``model`` is loaded in another dtype.

    Raises:
        TypeError: if ``model`` is something else, or its family has no masked LM in ``transformers``.
        ValueError: if there is a head already, the family's masked LM has another body, or the tokenizer does not
            belong to the model or has no mask token.
        FileNotFoundError: if the folder does not exist or a hub name cannot be reached.

    Example:
        >>> model = add_mlm_head("sentence-transformers/all-MiniLM-L6-v2")    # a BertForMaskedLM
    """
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

    if isinstance(model, (str, os.PathLike)):
        folder = model_folder(model)
        tokenizer, config = folder if tokenizer is None else tokenizer, load_config(folder)
        with reading(folder, "the weights"), no_weight_bars():  # the head of a classifier, say, is left out
            body, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"{folder!r} lacks weights of its body: {', '.join(missing[:3])}")
        kind = (config.architectures or [type(config).__name__])[0]
    else:
        body = model if isinstance(model, PreTrainedModel) else getattr(model, "transformers_model", None)
        kind = type(body).__name__
    if not isinstance(body, PreTrainedModel):
        raise TypeError(
            "model must be a transformers PreTrainedModel, a SentenceTransformer, a folder or a hub name, got a "
            f"{type(model).__name__}"
        )
    if kind.endswith(("ForMaskedLM", "ForPreTraining")) or body.get_output_embeddings() is not None:
        raise ValueError(f"model is a {kind}, which has an output head already: use it as it is")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(tokenizer)
    config, families = copy.deepcopy(body.config), AutoModelForMaskedLM._model_mapping
    if type(config) not in families or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise TypeError(
            f"model is a {kind}: transformers has no masked LM of one encoder for {config.model_type!r}, or it is set "
            "up as a decoder (is_decoder=True)"
        )
    family = families[type(config)]
    config.architectures = [family.__name__]
    # what the family does by default: a headless checkpoint's config may say anything
    config.tie_word_embeddings = bool(type(config)().tie_word_embeddings)
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten, the caller's random numbers stay
        full = family._from_config(config, dtype=body.dtype).to(body.device).eval()
    source, target = body.base_model, full.base_model
    if type(source) is not type(target):
        raise ValueError(f"model's body is a {type(source).__name__}, not the {type(target).__name__} of its family")
    # strictly: an adapter's weights, say, would be lost; a pooler no masked LM has
    target.load_state_dict({key: w for key, w in source.state_dict().items() if not key.startswith("pooler.")})
    full.tie_weights()
    _start_head(full)
    head = check_head(full)
    if tokenizer is not None and (len(tokenizer) > len(head.weight) or tokenizer.mask_token_id is None):
        raise ValueError(
            f"tokenizer must have a mask token and at most {len(head.weight)} tokens, the model's embeddings; it has "
            f"{len(tokenizer)} tokens and the mask token {tokenizer.mask_token!r}"
        )
    return full


def _start_head(full: PreTrainedModel) -> None:
    """Dense layers to the identity (or the embeddings' projection undone), norms to gain 1, all biases to 0."""
    import torch

    body, embeddings = set(full.base_model.modules()), full.get_input_embeddings().weight
    dense = [module.weight for module in body if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for module in full.modules():
            if module in body:
                continue
            weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
            if bias is not None:
                bias.zero_()
            if type(module).__name__.endswith("Norm"):
                weight.fill_(1)
            elif isinstance(module, torch.nn.Linear) and weight.shape == embeddings.shape:  # the decoder
                weight.copy_(embeddings)
            elif isinstance(module, torch.nn.Linear) and weight.shape[0] == weight.shape[1]:
                torch.nn.init.eye_(weight)
            elif isinstance(module, torch.nn.Linear):
                up = [one for one in dense if one.shape == weight.T.shape]
                if len(up) == 1:
                    weight.copy_(torch.linalg.pinv(up[0].float()))
