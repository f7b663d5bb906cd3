"""Find the output head of a masked LM and divide it (arXiv:2606.18811): placements, bias, provenance.

The head maps the last hidden state h_i (H) to t_i = T(h_i) and then to logits z_iv = w_v . t_i + b_v, where the
decoder (W: (V, H), b: (V,)) is almost always tied to the input embeddings. Dividing W in place would therefore divide
the embeddings, too; untying it by the config flag alone loses the bias in BERT- and RoBERTa-like families at the next
load. This module does the division so that it survives save, load, resize and further training in stock tools.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: Name of the config entry that records a rescale.
PROVENANCE = "pyterrier_rescale"
PLACEMENTS = ("decoder", "norm", "tied")


@dataclass(frozen=True)
class Head:
    """The linear decoder of a masked LM.

    Attributes:
        decoder: the module whose weight is W (V, H) and whose bias, if any, is b (V,).
        tied: whether W is the input embedding matrix.
        dead_bias: a second bias parameter of the family (``cls.predictions.bias``, ``lm_head.bias``) that
            transformers ties to the decoder's; ``(module, name)`` or ``None``.
    """

    decoder: torch.nn.Module
    tied: bool
    dead_bias: tuple[torch.nn.Module, str] | None

    @property
    def weight(self) -> torch.nn.Parameter:
        """W, shape (V, H)."""
        return self.decoder.weight

    @property
    def bias(self) -> torch.nn.Parameter | None:
        """The bias b, shape (V,), or ``None``."""
        return getattr(self.decoder, "bias", None)


def find_head(model: PreTrainedModel) -> Head:
    """Find the vocabulary projection of a masked LM by its shape, never by its attribute name.

    Args:
        model: a loaded masked LM.

    Raises:
        TypeError: if ``model`` is no ``PreTrainedModel`` or has no output embeddings (no MLM head).
        ValueError: if what the model calls its output embeddings is not a (V, H) projection.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, a folder or a hub name, got {_kind(model)}")
    decoder = model.get_output_embeddings()
    weight = getattr(decoder, "weight", None)
    if decoder is None:
        raise TypeError(
            f"model is a {type(model).__name__}, which has no masked-LM head; load it with AutoModelForMaskedLM"
        )
    embeddings = model.get_input_embeddings()
    vocab_size = embeddings.weight.shape[0]
    if weight is None or weight.dim() != 2 or weight.shape[0] != vocab_size:
        shape = "no weight" if weight is None else f"weight {tuple(weight.shape)}"
        raise ValueError(
            f"{type(model).__name__}: the output embeddings are a {type(decoder).__name__} with {shape}, not a "
            f"({vocab_size}, H) vocabulary projection; this head cannot be rescaled at the decoder"
        )
    return Head(decoder, weight is embeddings.weight, _dead_bias(model, decoder))


def _kind(value: object) -> str:
    return f"{type(value).__name__}: {value!r}"[:120]


def _dead_bias(model: PreTrainedModel, decoder: torch.nn.Module) -> tuple[torch.nn.Module, str] | None:
    """The module and name of the ``bias`` vector that sits beside the decoder, in the module that holds it."""
    import torch

    for parent in model.modules():
        if any(child is decoder for child in parent.children()):
            bias = parent._parameters.get("bias")
            if isinstance(bias, torch.nn.Parameter) and bias.dim() == 1:  # of any length: the model may be resized
                return parent, "bias"
    return None


def check_k(k: float) -> float:
    """Validate a rescale constant.

    Raises:
        ValueError: unless ``k`` is a finite number > 0.
    """
    if isinstance(k, bool) or not isinstance(k, (int, float)) or not math.isfinite(k) or k <= 0:
        raise ValueError(f"k must be a finite number > 0, got {k!r}")
    return float(k)


def rescale(
    model: str | os.PathLike[str] | PreTrainedModel,
    k: float = 16.0,
    *,
    bias: bool = False,
    placement: str = "decoder",
    inplace: bool = False,
) -> PreTrainedModel:
    """Divide the output head of a masked LM by ``k``: W <- W / k (arXiv:2606.18811).

    All placements give the same logits t (W / k)^T + b at the start; they train differently (Adam).

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        k: the divisor; 16 and 8 are the paper's settings.
        bias: divide the bias, too. Then no k changes which terms fire, only how much they weigh.
        placement: ``"decoder"`` (the paper's) unties W and divides it; ``"norm"`` divides gain and bias of the last
            norm before the decoder and leaves ties alone; ``"tied"`` divides embeddings and W together, which is
            exact only where the embedding output goes straight into a norm (ModernBERT) and refused elsewhere.
        inplace: change ``model`` itself instead of a copy (a name or folder is loaded, never copied).

    Returns:
        The rescaled model; its config records k, method, placement, bias and the mean row norm before.

    Raises:
        ValueError: for a k that is not a finite number > 0, an unknown placement, a model rescaled already, or a head
            that the placement cannot serve.
        TypeError: if the model has no masked-LM head.
    """
    from transformers import PreTrainedModel

    from .loading import load_backbone

    k = check_k(k)
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
    loaded_here = isinstance(model, (str, os.PathLike))
    if loaded_here:
        model, _ = load_backbone(model, need_tokenizer=False)
    elif not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, a folder or a hub name, got {_kind(model)}")
    refuse_rescaled(model)
    if placement != "norm":
        check_head(model)
    if not inplace and not loaded_here:
        model = copy.deepcopy(model)
    if placement == "norm":
        before = _divide_norm(model, k, bias)
    elif placement == "tied":
        before = _divide_tied(model, k, bias)
    else:
        before = _divide_decoder(model, k, bias)
    record(model, k=k, method="fixed", placement=placement, bias=bias, mean_row_norm_before=before)
    return model


def provenance(model: PreTrainedModel) -> dict[str, Any] | None:
    """What the config says about an earlier rescale, or ``None``."""
    return getattr(model.config, PROVENANCE, None)


def record(model: PreTrainedModel, **entries: Any) -> None:
    """Add entries to the provenance in the model's config (plain JSON values)."""
    setattr(model.config, PROVENANCE, {**(provenance(model) or {}), **entries})


def refuse_rescaled(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` if the model's config says that its head has been rescaled."""
    done = provenance(model)
    if done:
        raise ValueError(
            f"model has been rescaled already ({', '.join(f'{key}={value}' for key, value in done.items())}); "
            "start from the original backbone, or use it as it is (rescale=None)"
        )


def _divide_decoder(model: PreTrainedModel, k: float, bias: bool) -> float:
    head = find_head(model)
    before = mean_row_norm(head.weight)
    untie(model)
    head = find_head(model)
    _divide(head.weight, k)
    if bias and head.bias is not None:
        _divide(head.bias, k)
    return before


def _divide_norm(model: PreTrainedModel, k: float, bias: bool) -> float:
    norm, weight, decoder_bias = last_norm(model)
    before = mean_row_norm(weight)
    _divide(norm.weight, k)
    if getattr(norm, "bias", None) is not None:
        _divide(norm.bias, k)
    if bias and decoder_bias is not None:
        _divide(decoder_bias, k)
    return before


def _divide_tied(model: PreTrainedModel, k: float, bias: bool) -> float:
    import torch

    head = find_head(model)
    if not head.tied:
        raise ValueError(
            f"placement='tied' needs a {type(model).__name__} whose decoder is tied to its embeddings; "
            "this one is not: use placement='decoder'"
        )
    before = mean_row_norm(head.weight)
    ids = _probe_ids(model)
    original = head.weight.detach().clone()
    with torch.no_grad():
        expected = head_input(model, input_ids=ids).float()
        _divide(head.weight, k)
        got = head_input(model, input_ids=ids).float()
        error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error < 1e-3:
            head.weight.copy_(original)
            raise ValueError(
                f"placement='tied' changes what {type(model).__name__} computes (relative error {error:.2g} in the "
                "head's input), since its embeddings do not go straight into a norm: use placement='decoder'"
            )
    if bias and head.bias is not None:
        _divide(head.bias, k)
    return before


def _divide(parameter: torch.nn.Parameter, k: float) -> None:
    """Divide a parameter in place, in fp32 whatever its dtype."""
    import torch

    with torch.no_grad():
        if parameter.dtype == torch.float32 or parameter.dtype == torch.float64:
            parameter.div_(k)
        else:
            parameter.copy_(parameter.float().div_(k))


def mean_row_norm(weight: torch.Tensor) -> float:
    """Mean L2 norm of the rows of W (V, H), in fp32."""
    import torch

    with torch.no_grad():
        return float(torch.linalg.vector_norm(weight.float(), dim=1).mean())


def untie(model: PreTrainedModel) -> None:
    """Give the decoder its own weight and bias, so that they survive save and load in every family.

    The flag ``tie_word_embeddings=False`` alone is not enough: BERT- and RoBERTa-like checkpoints store the bias under
    ``cls.predictions.bias`` or ``lm_head.bias``, and a load without ties leaves ``decoder.bias`` at zero. So the bias
    becomes the decoder's own, and the second one is frozen and follows it at every save.
    """
    import torch

    head = find_head(model)
    decoder = head.decoder
    if head.tied:
        decoder.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    _split_dead_bias(head)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    keep_dead_bias_in_step(model)


def _split_dead_bias(head: Head) -> None:
    import torch

    if head.dead_bias is None or head.bias is None:
        return
    module, name = head.dead_bias
    own = torch.nn.Parameter(head.bias.detach().clone(), requires_grad=False)
    setattr(module, name, own)


def keep_dead_bias_in_step(model: PreTrainedModel) -> None:
    """Let the second bias parameter of the family follow the decoder's at every ``state_dict`` (so at every save)."""
    if find_head(model).dead_bias is not None and not getattr(model, "_rescale_save_hook", False):
        model.register_state_dict_pre_hook(_copy_dead_bias)
        model._rescale_save_hook = True


def _copy_dead_bias(model: PreTrainedModel, prefix: str, keep_vars: bool) -> None:
    import torch

    head = find_head(model)
    if head.dead_bias is None or head.bias is None:
        return
    module, name = head.dead_bias
    dead = getattr(module, name)
    if dead is head.bias or dead.shape != head.bias.shape:  # e.g. after resize_token_embeddings
        _split_dead_bias(head)
    else:
        with torch.no_grad():
            dead.copy_(head.bias)


def ensure_bias(model: PreTrainedModel) -> torch.nn.Parameter:
    """Return the decoder's bias, adding a zero one where the family's config knows such an option.

    Raises:
        ValueError: if the family has no decoder bias, so that a stock load would drop it.
    """
    import torch

    head = find_head(model)
    if head.bias is not None:
        return head.bias
    if getattr(model.config, "decoder_bias", None) is False:  # ModernBERT
        model.config.decoder_bias = True
        head.decoder.bias = torch.nn.Parameter(head.weight.new_zeros(head.weight.shape[0]))
        return head.decoder.bias
    raise ValueError(
        f"{type(model).__name__} has no decoder bias, and its config no option for one: a per-term offset would be "
        "lost at the next load; use offset=False"
    )


@contextmanager
def decoder_bypassed(decoder: torch.nn.Module) -> Iterator[None]:
    """While open, the decoder returns its input: the model's "logits" are then t (B, L, H)."""
    decoder.forward = _identity
    try:
        yield
    finally:
        del decoder.forward


def _identity(hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden


def head_input(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Run a masked LM up to its decoder and return t (B, L, H), without ever building the (B, L, V) logits."""
    with decoder_bypassed(model.get_output_embeddings()):
        return model(**inputs).logits


def _probe_ids(model: PreTrainedModel) -> torch.Tensor:
    """A (1, 8) batch of token ids on the model's device, away from the special ids at the vocabulary's start."""
    import torch

    vocab_size = model.get_input_embeddings().weight.shape[0]
    start = max(0, min(vocab_size - 8, vocab_size // 2))
    return torch.arange(start, min(start + 8, vocab_size), device=model.device)[None]


def check_head(model: PreTrainedModel) -> Head:
    """Find the head and prove on one short input that logits = t W^T + b, so that the kernel may take its place.

    Raises:
        ValueError: if the model does something else to its logits (softcapping, another projection).
    """
    import torch

    head = find_head(model)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            ids = _probe_ids(model)
            expected = model(input_ids=ids).logits
            hidden = head_input(model, input_ids=ids)
            fits = hidden.shape[-1] == head.weight.shape[1]
            if fits:
                got = torch.nn.functional.linear(hidden, head.weight, head.bias)
                scale = expected.float().abs().max().clamp_min(1e-6)
                tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
                fits = float((got.float() - expected.float()).abs().max() / scale) < tolerance
    finally:
        model.train(training)
    if not fits:
        raise ValueError(
            f"{type(model).__name__}: the logits are not t W^T + b of its output embeddings "
            f"({type(head.decoder).__name__}); this head is not supported"
        )
    return head


def last_norm(model: PreTrainedModel) -> tuple[torch.nn.Module, torch.Tensor, torch.nn.Parameter | None]:
    """The norm whose output is the decoder's input, with W and b.

    It is found by running eight tokens and comparing tensors, so it serves heads whose output embeddings are not the
    vocabulary projection (DeBERTa with ``legacy=False``), too.

    Raises:
        ValueError: if no norm with a gain feeds the decoder.
    """
    import torch

    outputs: list[tuple[torch.nn.Module, torch.Tensor]] = []

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        if type(module).__name__.endswith("Norm") and isinstance(output, torch.Tensor):
            outputs.append((module, output))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=_probe_ids(model)).logits
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    norm, hidden = outputs[-1] if outputs else (None, None)
    if norm is not None and getattr(norm, "weight", None) is not None:
        for weight, bias in _projections(model):
            if weight.shape[1] == hidden.shape[-1]:
                with torch.no_grad():
                    got = torch.nn.functional.linear(hidden, weight, bias)
                if got.shape == logits.shape and torch.allclose(got, logits, rtol=1e-2, atol=1e-3):
                    return norm, weight, bias
    raise ValueError(f"{type(model).__name__}: no norm feeds the decoder directly; use placement='decoder'")


def _projections(model: PreTrainedModel) -> Iterator[tuple[torch.Tensor, torch.nn.Parameter | None]]:
    """Candidates for (W, b): the output embeddings, then the input embeddings with each (V,) bias of the model."""
    embeddings = model.get_input_embeddings().weight
    try:
        head = find_head(model)
        yield head.weight, head.bias
    except (TypeError, ValueError):
        yield embeddings, None
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.shape == embeddings.shape[:1]:
                yield embeddings, parameter
