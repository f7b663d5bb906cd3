"""Which activations a run keeps (:mod:`.activations`), chosen by the memory that is free when it starts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .._utils.free_memory import free_memory
from .._utils.sampling import spread
from .activations import layers

if TYPE_CHECKING:
    from .config import TrainConfig
    from .data.rows import Rows
    from .model import SparseHead

# What each choice was seen to take of the bytes that autograd keeps of everything, with what malloc loses: BERT-base
# and ModernBERT-base.
_SHARES = {"all": 1.2, "products": 0.65, "inputs": 0.25}
# Part of the free memory that is planned with.
_PLANNED = 0.9
# Rows of the data whose lengths are looked at.
_SAMPLED_ROWS = 256
# Matrices of the size of a step's vectors (B, V) that the head and the objective hold.
_VECTORS = 6


def choose(module: SparseHead, rows: Rows, negatives: int, config: TrainConfig, copies: int) -> str:
    """What a run keeps: what its options say, or as much as the free memory holds. Nothing but time depends on it.

    Args:
        module: on its device.
        rows: the training data.
        negatives: per query.
        config: the options.
        copies: of the trained weights that training adds: gradients, optimizer's states.

    Raises:
        ValueError: for an option that the model has no layers for.
    """
    if not layers(module.mlm):
        if config.activations in ("auto", "all"):
            return "all"
        raise ValueError(f"activations must be 'all' for {type(module.mlm).__name__}, which has no list of layers")
    if config.activations != "auto" or config.mini_batch_size is not None:
        return "all" if config.activations == "auto" else config.activations
    device = next(module.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return first_that_fits(step_bytes(module, rows, negatives, config, copies), int(_PLANNED * free))


def first_that_fits(needs: Mapping[str, int], free: int) -> str:
    """The first name whose bytes are free, or, with a warning, the last.

    Args:
        needs: bytes by name, falling.
        free: bytes.
    """
    for name, need in needs.items():
        if need <= free:
            return name
    warnings.warn(
        f"a training step needs some {need / 1e9:.1f} GB at least, and {free / 1e9:.1f} GB are free: choose a smaller "
        "batch_size or max_length, or mini_batch_size, which takes time instead",
        stacklevel=2,
    )
    return name


def step_bytes(module: SparseHead, rows: Rows, negatives: int, config: TrainConfig, copies: int) -> dict[str, int]:
    """Bytes that a step needs beside the model, by what is kept: an estimate, from the lengths of some texts.

    Its arguments are those of :func:`choose`.
    """
    some = [rows[int(place)] for place in spread(len(rows), _SAMPLED_ROWS)]
    documents = [text for row in some for text in row.documents[: 1 + negatives]]
    sides = [(documents, config.max_length, 1 + negatives)]
    if config.queries == "model":
        sides.append(([row.query for row in some], config.query_max_length or config.max_length, 1))
    weights = next(module.parameters())
    tokens, longest = 0.0, torch.empty(0)
    for texts, limit, per_query in sides:
        side = module.tokenise(texts, limit)
        lengths = side["attention_mask"].sum(dim=1)
        # on a CPU texts of a length run together
        length = lengths.double().mean() if weights.device.type == "cpu" else lengths.max()
        tokens += config.batch_size * per_query * float(length)
        if lengths.max() > len(longest):
            longest = side["input_ids"][lengths.argmax(), : lengths.max()]
    body = kept_bytes(module, longest.to(weights.device)) * tokens / len(longest)
    vectors = _VECTORS * config.batch_size * (2 + negatives) * module.get_embedding_dimension()
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    fixed = weights.element_size() * (vectors + copies * trained)
    return {kept: int(fixed + share * body) for kept, share in _SHARES.items()}


def kept_bytes(module: SparseHead, ids: torch.Tensor) -> int:
    """Bytes kept for the backward pass of one text's body, (L,) token ids, where everything is kept.

    Measured, as it depends on the architecture, its dropout and attention. Random numbers go on as if nothing had been.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    blocks: dict[int, int] = {}
    held = []  # so that no address comes twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            blocks[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    training, device = module.training, ids.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module.train()  # with dropout
        module.hidden(ids[None], torch.ones_like(ids[None]))
        module.train(training)
    return sum(blocks.values())
