"""Give an encoder without a masked-LM head one that is tied to its embeddings, to be pretrained."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._utils.paths import expand
from .checkpoint import check_source, load_tokenizer, no_weight_bars, unreachable
from .decoder import check_head, evaluating, find_head, kind_of, probe_ids

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def add_mlm_head(model: Any, tokenizer: Any = None) -> PreTrainedModel:
    """Return the masked LM of an encoder's family, with the encoder's body and a head that is still to be pretrained.

    For a retriever's or classifier's body (``BertModel``, the folder of a SentenceTransformer) that is to become a
    SPLADE encoder. The decoder is tied to the input embeddings (copied into it where the family does not tie), its bias
    is zero. The head transform begins at the identity as far as its family lets it: a square dense layer is I, norms
    have gain 1 and bias 0. Where embeddings are smaller than hidden states (ALBERT, ELECTRA), the dense layer is the
    pseudo-inverse of the body's own projection. Activation and norm stay, so that T(h) = norm(gelu(h)) is not
    h (on MiniLM their cosine is .94; a dense bias of 4, with which gelu is nearly linear, makes it .9996, and no
    difference after 200 steps of warm-up). Such a head names few tokens: pretrain it as a masked LM before use
    (:func:`~pyterrier_rescale.backbones.headed_backbone`).

    Args:
        model: a loaded encoder without a masked-LM head (``PreTrainedModel``, ``SentenceTransformer``), a folder of
            either, or a hub name. A loaded one is left as it is.
        tokenizer: its tokenizer, or its name or folder; default: the folder's own, where ``model`` is one.

    Returns:
        The masked LM, in eval mode, float32 unless ``model`` is loaded in another dtype; its hidden states are those of
        the encoder.

    Raises:
        TypeError: if ``model`` is something else, or its family has no masked LM in ``transformers``.
        ValueError: if there is a head already, the body is not the family's masked LM's, a part of the family's head
            has no known beginning, or the tokenizer does not belong to the model or has no mask token.
        FileNotFoundError: if the folder does not exist or a hub name cannot be reached.

    Example:
        >>> model = add_mlm_head("sentence-transformers/all-MiniLM-L6-v2")    # a BertForMaskedLM
    """
    import torch
    from transformers import PreTrainedModel

    if isinstance(model, (str, os.PathLike)):
        folder = transformer_folder(os.fspath(model))
        tokenizer = folder if tokenizer is None else tokenizer
        body = _load_body(folder)
    else:
        body = model if isinstance(model, PreTrainedModel) else getattr(model, "transformers_model", None)
        if not isinstance(body, PreTrainedModel):
            raise TypeError(
                "model must be a transformers PreTrainedModel, a SentenceTransformer, a folder or a hub name, got "
                f"{kind_of(model)}"
            )
        if body.get_output_embeddings() is not None:
            raise ValueError(f"model is a {type(body).__name__}, which has an output head already: use it as it is")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(os.fspath(tokenizer))
    family = _masked_lm_class(body.config, type(body).__name__)
    config = copy.deepcopy(body.config)
    config.architectures = [family.__name__]
    # what the family does by default: a headless checkpoint's config may say anything
    config.tie_word_embeddings = bool(type(config)().tie_word_embeddings)
    with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten, the caller's random numbers stay
        full = family(config).to(dtype=body.dtype, device=body.device).eval()
    _copy_body(body, full)
    full.tie_weights()
    _begin_head(full)
    _check(body, full, tokenizer)
    return full


def transformer_folder(name: str) -> str:
    """The folder of the transformers model: of a SentenceTransformer, its first module's."""
    modules = expand(name) / "modules.json"
    if not modules.is_file():
        return name
    first = json.loads(modules.read_text(encoding="utf-8"))[0]
    return str(modules.parent / first["path"]) if first["path"] else name


def _load_body(name: str) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig

    check_source(name, "model")
    try:
        config = AutoConfig.from_pretrained(name)
        architecture = (config.architectures or [type(config).__name__])[0]
        family = _masked_lm_class(config, architecture)
        with _quiet(), torch.random.fork_rng(devices=[]):  # the head that is missing is drawn at random, in vain
            full, info = family.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise unreachable(name, error) from error
    missing = set(info["missing_keys"])
    body = {f"{full.base_model_prefix}.{key}" for key in full.base_model.state_dict()}
    if missing & body:
        raise ValueError(f"{name!r} lacks weights of its body: {', '.join(sorted(missing & body)[:3])}")
    if not missing:
        raise ValueError(f"{name!r} holds a {architecture} with a whole masked-LM head: use it as it is")
    kept = set(full.state_dict()) - body - missing - set(full.all_tied_weights_keys)
    if kept:
        raise ValueError(
            f"{name!r} holds a part of a masked-LM head ({', '.join(sorted(kept)[:3])}) without "
            f"{', '.join(sorted(missing)[:3])}: load its body with AutoModel, and pass that"
        )
    return full.base_model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and without transformers' table of missing weights, which are missing by definition here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with no_weight_bars():
            yield
    finally:
        logging.set_verbosity(level)


def _masked_lm_class(config: PretrainedConfig, kind: str) -> type[PreTrainedModel]:
    from transformers import AutoModelForMaskedLM

    mapping = AutoModelForMaskedLM._model_mapping
    if type(config) not in mapping or getattr(config, "is_encoder_decoder", False):
        raise TypeError(f"model is a {kind}: transformers has no masked LM of one encoder for {config.model_type!r}")
    if getattr(config, "is_decoder", False):
        raise TypeError(f"model is a {kind} that is a decoder (is_decoder=True): a token sees only those before it")
    return mapping[type(config)]


def _copy_body(body: PreTrainedModel, full: PreTrainedModel) -> None:
    """Weights of the body into the masked LM's; a pooler, which no masked LM has, is left out."""
    source, target = body.base_model, full.base_model
    if type(source) is not type(target):
        raise ValueError(
            f"model's body is a {type(source).__name__}, {type(full).__name__} has a {type(target).__name__}: they do "
            "not compute the same"
        )
    result = target.load_state_dict(source.state_dict(), strict=False)
    extra = [key for key in result.unexpected_keys if not key.startswith("pooler.")]
    if result.missing_keys or extra:
        raise ValueError(
            f"the weights of {type(source).__name__} do not fit {type(full).__name__}: "
            f"missing {result.missing_keys[:3]}, unknown {extra[:3]}"
        )


def _begin_head(full: PreTrainedModel) -> None:
    """Dense layers to the identity (or the embeddings' projection undone), norms to gain 1, all biases to 0."""
    import torch

    inside = set(full.base_model.modules())
    head = find_head(full)
    embeddings = full.get_input_embeddings().weight
    with torch.no_grad():
        for name, module in full.named_modules():
            own = {key: p for key, p in module._parameters.items() if p is not None}
            if module in inside or not own:
                continue
            if module is head.decoder and not head.tied and head.weight.shape == embeddings.shape:
                head.weight.copy_(embeddings)
            elif isinstance(module, torch.nn.Linear) and module is not head.decoder:
                module.weight.copy_(_start_of(module.weight, full, name))
            elif type(module).__name__.endswith("Norm"):
                module.weight.fill_(1)
            elif module is not head.decoder and set(own) != {"bias"}:
                raise ValueError(
                    f"{type(full).__name__}: {name} is a {type(module).__name__}, whose beginning is not known"
                )
            if "bias" in own:
                own["bias"].zero_()


def _start_of(weight: torch.Tensor, full: PreTrainedModel, name: str) -> torch.Tensor:
    """I for a square dense layer; for an (E, H) one the pseudo-inverse of the body's one (H, E) projection."""
    import torch

    small, wide = weight.shape
    if small == wide:
        return torch.eye(small, dtype=weight.dtype, device=weight.device)
    projections = [
        module.weight for module in full.base_model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight.shape == (wide, small)
    ]  # fmt: skip
    if len(projections) != 1:
        raise ValueError(
            f"{type(full).__name__}: {name} is {small} x {wide}, and its body has {len(projections)} projections of "
            f"{small} to {wide}: an identity is not to be had"
        )
    return torch.linalg.pinv(projections[0].float()).to(weight)


def _check(body: PreTrainedModel, full: PreTrainedModel, tokenizer: Any) -> None:
    """The head is one that the kernel computes, the hidden states are the body's, the tokenizer belongs to them."""
    import torch

    head = check_head(full)
    with evaluating(body), torch.inference_mode():
        ids = probe_ids(full)
        mask = torch.ones_like(ids)
        expected = body.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        got = full.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5):
        raise ValueError(f"{type(full).__name__} does not give the hidden states of {type(body.base_model).__name__}")
    if tokenizer is None:
        return
    if len(tokenizer) > head.weight.shape[0]:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} tokens, the model only {head.weight.shape[0]} embeddings: "
            "they do not belong together"
        )
    if tokenizer.mask_token_id is None:
        raise ValueError("tokenizer has no mask token, without which a masked LM cannot be pretrained")
