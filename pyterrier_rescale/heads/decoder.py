"""Find the output head of a masked LM or a causal language model, prove it, and run the model up to it.

The head maps the last hidden state h_i (H) to t_i = T(h_i) and then to logits z_iv = w_v . t_i + b_v, where the
decoder (W: (V, H), b: (V,)) is almost always tied to the input embeddings. Some language models scale or cap their
logits after that; both are monotone and keep 0, so that they may come after a maximum over positions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# One thread at a time switches a model to eval mode and back: models are shared.
_lock = threading.RLock()


@dataclass(frozen=True)
class Head:
    """The linear decoder of a masked LM: a module with W (V, H), and b (V,) if any; ``tied`` if W embeds the input.

    z is then multiplied by ``scale`` (``logit_scale``, 1 / ``logits_scaling``), capped by ``final_logit_softcapping``.
    """

    decoder: torch.nn.Module
    tied: bool
    scale: float = 1.0
    cap: float | None = None

    @property
    def weight(self) -> torch.nn.Parameter:
        """W, shape (V, H)."""
        return self.decoder.weight

    @property
    def bias(self) -> torch.nn.Parameter | None:
        """The bias b, shape (V,), or ``None``."""
        return getattr(self.decoder, "bias", None)

    @property
    def after(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What comes after z, cap tanh(scale z / cap); ``None`` for nothing."""
        return None if self.scale == 1 and self.cap is None else self._after

    def _after(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


def find_head(model: PreTrainedModel) -> Head:
    """Find the vocabulary projection of a masked LM by its shape (V, H), never by its attribute name."""
    decoder = model.get_output_embeddings()
    if decoder is None:
        raise TypeError(
            f"model is a {type(model).__name__}, which has no masked-LM head: load a checkpoint that has one with "
            "AutoModelForMaskedLM or AutoModelForCausalLM; add_mlm_head(model, tokenizer) gives an encoder a new head, "
            "to be pretrained"
        )
    weight = getattr(decoder, "weight", None)
    embeddings = model.get_input_embeddings().weight
    if weight is None or weight.dim() != 2 or len(weight) != len(embeddings):
        shape = "no weight" if weight is None else f"weight {tuple(weight.shape)}"
        raise ValueError(
            f"{type(model).__name__}: the output embeddings are a {type(decoder).__name__} with {shape}, not a "
            f"({len(embeddings)}, H) vocabulary projection; this head is not supported"
        )
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(decoder, weight is embeddings, scale, getattr(config, "final_logit_softcapping", None))


def check_head(model: PreTrainedModel) -> Head:
    """Find the head and prove on one short input what its logits are, so that the kernel may take its place.

    ``ValueError`` if the model does something else to them than :class:`Head` says (another projection, say).
    """
    import torch

    head = find_head(model)
    with evaluating(model), torch.inference_mode():
        ids = probe_ids(model)
        expected = model(input_ids=ids).logits.float()
        hidden = head_input(model, input_ids=ids)
        fits = hidden.shape[-1] == head.weight.shape[1]
        if fits:
            got = torch.nn.functional.linear(hidden, head.weight, head.bias)
            got = (head.after(got) if head.after else got).float()
            tolerance = 1e-3 if hidden.dtype == torch.float32 else 5e-2
            fits = bool((got - expected).abs().max() < tolerance * expected.abs().max().clamp_min(1e-6))
    if not fits:
        what = "t W^T + b of its output embeddings" if expected.isfinite().all() else "finite: the weights hold NaN"
        raise ValueError(f"{type(model).__name__}: the logits are not {what}; this head is not supported")
    return head


def head_input(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Run a masked LM up to its decoder and return t (B, L, H), without ever building the (B, L, V) logits.

    Differentiable. A hook keeps the decoder's input and passes on none of its rows: a product over nothing. Other
    threads' calls get their logits. ``ValueError`` if the model does not call its decoder once.
    """
    decoder = model.get_output_embeddings()
    thread, kept = threading.get_ident(), []

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if threading.get_ident() != thread:
            return None
        kept.append(inputs[0])
        return (inputs[0][..., :0, :],)

    handle = decoder.register_forward_pre_hook(keep)
    try:
        model(**inputs)
    finally:
        handle.remove()
    if len(kept) != 1:
        raise ValueError(f"{type(model).__name__}: its output embeddings are called {len(kept)} times, not once")
    return kept[0]


def check_attention(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` if the first position sees the last one, or not, against the configuration (Mamba)."""
    import torch

    ids = probe_ids(model)
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    with evaluating(model), torch.inference_mode():
        first = [head_input(model, input_ids=one, attention_mask=torch.ones_like(one))[0, 0] for one in (ids, other)]
    wanted = "causal" if getattr(model.config, "is_causal", True) else "bidirectional"
    found = "causal" if torch.allclose(*first, rtol=1e-4, atol=1e-6) else "bidirectional"
    if wanted != found:
        raise ValueError(f"attention={wanted!r} is not to be had of a {type(model).__name__}: it attends {found}ly")


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """While open, the model is in eval mode, and no other thread is in such a block; then each module is as it was."""
    with _lock:
        training = [module for module in model.modules() if module.training]
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

    vocab_size = len(model.get_input_embeddings().weight)
    return (vocab_size // 2 + torch.arange(8, device=model.device)).clamp(max=vocab_size - 1)[None]


def padding_error(model: PreTrainedModel, head: Head) -> float:
    """How far padding moves the logits of a text, relative to the largest; FNet and ConvBERT do not mask it."""
    import torch

    ids = probe_ids(model)
    mask, padding = torch.ones_like(ids), torch.full_like(ids, model.config.pad_token_id or 0)
    padded, padded_mask = torch.cat([ids, padding], dim=1), torch.cat([mask, torch.zeros_like(ids)], dim=1)
    some = head.weight[:: max(1, len(head.weight) // 512)]
    with evaluating(model), torch.inference_mode():
        alone = head_input(model, input_ids=ids, attention_mask=mask) @ some.T
        beside = head_input(model, input_ids=padded, attention_mask=padded_mask)[:, : ids.shape[1]] @ some.T
        return float((alone - beside).float().abs().max() / alone.float().abs().max().clamp_min(1e-6))


def mean_row_norm(weight: torch.Tensor) -> float:
    """Mean L2 norm of the rows of W (V, H), in fp32."""
    import torch

    return float(torch.linalg.vector_norm(weight.detach().float(), dim=1).mean())
