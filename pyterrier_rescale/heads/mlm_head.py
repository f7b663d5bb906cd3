"""Give an encoder without a masked-LM head one that is tied to its embeddings, to be pretrained."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from .checkpoint import check_source, load_config, load_tokenizer, no_weight_bars, reading
from .decoder import check_head, evaluating, find_head, probe_ids
from .hub_files import model_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def add_mlm_head(model: Any, tokenizer: Any = None) -> PreTrainedModel:
    """Return the masked LM of an encoder's family, with the encoder's body and a head that is still to be pretrained.

    For a retriever's or classifier's body (``BertModel``, the folder of a SentenceTransformer) that is to become a
    SPLADE encoder. The decoder is tied to the input embeddings (copied into it where the family does not tie), its bias
    is zero. The head's transform starts at the identity as far as the family allows: a square dense layer is I, norms
    have gain 1 and bias 0. Where embeddings are smaller than hidden states (ALBERT, ELECTRA), the dense layer is the
    pseudo-inverse of the body's own projection. Activation and norm stay, so T(h) = norm(gelu(h)) is not h (on MiniLM
    their cosine is .94). Such a head names few tokens: pretrain it as a masked LM before use
    (:func:`~pyterrier_rescale.backbones.headed_backbone`).

    Args:
        model: a loaded encoder without a masked-LM head (``PreTrainedModel``, ``SentenceTransformer``; it is left as it
            is), a folder of either, or a hub name.
        tokenizer: its tokenizer, or its name or folder; default: the folder's own, where ``model`` is one.

    Returns:
        The masked LM, in eval mode, float32 unless ``model`` is loaded in another dtype.

    Raises:
        TypeError: if ``model`` is something else, or its family has no masked LM in ``transformers``.
        ValueError: if there is a head already, the family's masked LM has another body or a layer of unknown start, or
            the tokenizer does not belong to the model or has no mask token.
        FileNotFoundError: if the folder does not exist or a hub name cannot be reached.

    Example:
        >>> model = add_mlm_head("sentence-transformers/all-MiniLM-L6-v2")    # a BertForMaskedLM
    """
    import torch
    from transformers import AutoModelForMaskedLM, PreTrainedModel

    if isinstance(model, (str, os.PathLike)):
        folder = check_source(model_folder(model), "model")
        tokenizer = folder if tokenizer is None else tokenizer
        body, kind = _load_body(folder)
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
    _copy_body(body, full)
    full.tie_weights()
    _start_head(full)
    head = check_head(full)
    if tokenizer is not None and (len(tokenizer) > len(head.weight) or tokenizer.mask_token_id is None):
        raise ValueError(
            f"tokenizer must have a mask token and at most {len(head.weight)} tokens, the model's embeddings; it has "
            f"{len(tokenizer)} tokens and the mask token {tokenizer.mask_token!r}"
        )
    return full


def _load_body(name: str) -> tuple[PreTrainedModel, str]:
    """The body, and the class that its folder names."""
    import torch
    from transformers import AutoModel

    config = load_config(name)
    with reading(name, "the weights"), no_weight_bars():  # the head of a classifier, say, is left out
        body, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"{name!r} lacks weights of its body: {', '.join(missing[:3])}")
    return body, (config.architectures or [type(config).__name__])[0]


def _copy_body(body: PreTrainedModel, full: PreTrainedModel) -> None:
    """Weights of the body into the masked LM's; a pooler, which no masked LM has, is left out."""
    import torch

    source, target = body.base_model, full.base_model
    result = target.load_state_dict(source.state_dict(), strict=False)
    odd = [*result.missing_keys, *(key for key in result.unexpected_keys if not key.startswith("pooler."))]
    ids = probe_ids(full)
    with evaluating(body), torch.inference_mode():
        states = [one(input_ids=ids, attention_mask=torch.ones_like(ids))[0].float() for one in (source, target)]
    if odd or not torch.allclose(*states, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"model's body is a {type(source).__name__}, which does not compute what the body of "
            f"{type(full).__name__} does (weights of one of them alone: {odd[:3]})"
        )


def _start_head(full: PreTrainedModel) -> None:
    """Dense layers to the identity (or the embeddings' projection undone), norms to gain 1, all biases to 0."""
    import torch

    inside, decoder = set(full.base_model.modules()), find_head(full).decoder
    embeddings = full.get_input_embeddings().weight
    with torch.no_grad():
        for name, module in full.named_modules():
            weight, bias = (None if module in inside else module._parameters.get(key) for key in ("weight", "bias"))
            if weight is not None:
                if module is decoder:
                    start = embeddings if weight.shape == embeddings.shape else weight
                elif isinstance(module, torch.nn.Linear):
                    start = _start_of(weight, full)
                else:
                    start = torch.ones_like(weight) if type(module).__name__.endswith("Norm") else None
                if start is None:
                    raise ValueError(
                        f"{type(full).__name__}: {name} is a {type(module).__name__}, whose start is not known"
                    )
                weight.copy_(start)
            if bias is not None:
                bias.zero_()


def _start_of(weight: torch.Tensor, full: PreTrainedModel) -> torch.Tensor | None:
    """I for a square dense layer; for an (E, H) one the pseudo-inverse of the body's one (H, E) projection."""
    import torch

    small, wide = weight.shape
    if small == wide:
        return torch.eye(small)
    dense = [module.weight for module in full.base_model.modules() if isinstance(module, torch.nn.Linear)]
    projections = [one for one in dense if one.shape == (wide, small)]
    return torch.linalg.pinv(projections[0].float()) if len(projections) == 1 else None
