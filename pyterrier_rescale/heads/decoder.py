"""Find the output head of a masked LM, prove it, and run the model up to it.

The head maps the last hidden state h_i (H) to t_i = T(h_i) and then to logits z_iv = w_v . t_i + b_v, where the
decoder (W: (V, H), b: (V,)) is almost always tied to the input embeddings.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._utils.locks import lock_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


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
        raise TypeError(f"model must be a transformers PreTrainedModel, a folder or a hub name, got {kind_of(model)}")
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
    if weight.is_meta:
        raise ValueError(f"{type(model).__name__}: the decoder's weights are not in memory (offloaded, device 'meta')")
    behind = None if getattr(decoder, "bias", None) is not None else _bias_behind(model, vocab_size)
    if behind is not None:
        raise ValueError(
            f"{type(model).__name__}: the bias {behind!r} is added behind the output embeddings, which have none of "
            "their own; logits that are not t W^T + b of one decoder are not supported"
        )
    return Head(decoder, weight is embeddings.weight, _dead_bias(model, decoder))


def _bias_behind(model: PreTrainedModel, vocab_size: int) -> str | None:
    """Name of a vocabulary-sized bias outside of the decoder (ESM's ``lm_head.bias``, BART's), whatever its values."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.numel() == vocab_size and name.rsplit(".", 1)[-1].endswith("bias"):
            return name
    return None


def kind_of(value: object) -> str:
    """Type and value, for error messages."""
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


def mean_row_norm(weight: torch.Tensor) -> float:
    """Mean L2 norm of the rows of W (V, H), in fp32."""
    import torch

    with torch.no_grad():
        return float(torch.linalg.vector_norm(weight.float(), dim=1).mean())


class _InputOf:
    """A forward pre-hook of the decoder that keeps its input and passes on none of its rows, for calls of one thread.

    So the decoder's product, and whatever follows it, is one over nothing, while every other hook and patch of model
    and decoder (accelerate's, a user's) runs as ever, and other threads' calls of the model get their logits.
    """

    def __init__(self, thread: int | None = None) -> None:
        self.thread = thread
        self.hidden: list[torch.Tensor] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()  # a copy of the model made in the middle of a run holds one that does nothing

    def __call__(self, decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return None
        name, hidden = next(iter(kwargs.items())) if not args else (None, args[0])
        self.hidden.append(hidden)
        empty = hidden[..., :0, :]
        return ((empty, *args[1:]), kwargs) if args else ((), {**kwargs, name: empty})


def head_input(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Run a masked LM up to its decoder and return t (B, L, H), without ever building the (B, L, V) logits.

    Differentiable. Several threads may run one model; its forward, hooks and parameters stay as they are.

    Raises:
        ValueError: if the model does not call its decoder once (it multiplies by the weight itself).
    """
    decoder = model.get_output_embeddings()
    keep = _InputOf(threading.get_ident())
    handle = decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(**inputs)
    finally:
        handle.remove()
    if len(keep.hidden) != 1:
        raise ValueError(
            f"{type(model).__name__} calls its output embeddings ({type(decoder).__name__}) {len(keep.hidden)} times "
            "per batch, not once; this head is not supported"
        )
    return keep.hidden[0]


@contextmanager
def evaluating(model: torch.nn.Module, modules: Sequence[torch.nn.Module] | None = None) -> Iterator[None]:
    """While open, the model belongs to this thread and is in eval mode; then each module is as it was.

    ``modules`` are the model's, where they are at hand already: to list them takes a fifth of a millisecond.
    """
    with lock_of(model):
        training = [module for module in (model.modules() if modules is None else modules) if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def probe_ids(model: PreTrainedModel) -> torch.Tensor:
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
    with evaluating(model), torch.inference_mode():
        ids = probe_ids(model)
        expected = model(input_ids=ids).logits
        try:
            hidden = head_input(model, input_ids=ids)
        except ValueError:
            hidden = expected[..., :0]
        fits = hidden.shape[-1] == head.weight.shape[1]
        if fits:
            got = torch.nn.functional.linear(hidden, head.weight, head.bias)
            scale = expected.float().abs().max().clamp_min(1e-6)
            tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
            fits = float((got.float() - expected.float()).abs().max() / scale) < tolerance
    if not bool(expected.isfinite().all()):
        raise ValueError(f"{type(model).__name__}: the logits are not finite; the checkpoint holds NaN or infinity")
    if not fits:
        raise ValueError(
            f"{type(model).__name__}: the logits are not t W^T + b of its output embeddings "
            f"({type(head.decoder).__name__}); this head is not supported"
        )
    return head


def padding_error(model: PreTrainedModel, head: Head) -> float:
    """How far padding moves the logits of a text, relative to the largest; 0 where attention masks it.

    Not 0 where tokens mix without a mask: FNet's Fourier transform, ConvBERT's convolutions at a text's end.
    """
    import torch

    padding = model.config.pad_token_id or 0
    with evaluating(model), torch.inference_mode():
        ids = probe_ids(model)
        padded = torch.cat([ids, torch.full_like(ids, padding)], dim=1)
        alone, beside = (
            head_input(model, input_ids=tokens, attention_mask=(torch.arange(tokens.shape[1]) < 8).long()[None].to(ids))
            for tokens in (ids, padded)
        )
        some = head.weight[:: max(1, len(head.weight) // 512)]
        logits, others = (torch.nn.functional.linear(hidden[0, :8], some).float() for hidden in (alone, beside))
        return float((logits - others).abs().max() / logits.abs().max().clamp_min(1e-6))


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
    try:
        with evaluating(model), torch.no_grad():
            logits = model(input_ids=probe_ids(model)).logits
    finally:
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
