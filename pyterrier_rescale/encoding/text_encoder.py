"""Texts to term weights: tokenise, sort by length, batch under a token budget, run the kernel, return CSR."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from .._utils.checks import check_integer
from .._utils.locks import lock_of
from .._utils.memory import keep_freed_memory
from ..heads.decoder import check_head, evaluating, head_input, padding_error
from .folding import fold_rows, make_folding
from .head_options import HeadOptions
from .kernel import POOLINGS, packed_head
from .screening import make_screen
from .text_checks import check_max_length, check_texts
from .threads import one_thread

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Texts that are tokenised and sorted together: enough for batches of nearly equal lengths, little to hold.
_WINDOW = 2048
# Padded tokens of one batch on a CPU: a hidden state of a few MB, which keeps the layers' temporaries in the cache, and
# few texts together, which are of nearly equal lengths.
_CPU_TOKENS = 1024
# A text shorter than this share of its batch's longest is better off in the next batch.
_SIMILAR = 0.85
# Rows from which the head's product is at its full rate.
_HEAD_ROWS = 3072
# From how many texts settings that outlive a batch pay: a screen, malloc's.
_MANY_TEXTS = 8
# Floating-point operations of a model's batch up to which it runs on one thread: a query's, some ten milliseconds.
_ONE_THREAD = 1e9


class HeadBatch(NamedTuple):
    """One batch on its way through the head.

    Attributes:
        texts: positions of the B texts in the input.
        hidden: t, shape (B, L, H).
        mask: attended positions, bool (B, L).
        special: attended positions of special tokens ([CLS], [SEP], ...), bool (B, L).
        input_ids: token ids, shape (B, L).
    """

    texts: np.ndarray
    hidden: torch.Tensor
    mask: torch.Tensor
    special: torch.Tensor
    input_ids: torch.Tensor


class TextEncoder:
    """Encode texts with a masked LM's sparse head.

    Args:
        model: a loaded masked LM; it is left in its mode and on its device (another ``device`` gets a copy).
        tokenizer: its tokenizer; copied.
        pooling: ``"max"`` or ``"sum"`` over positions.
        max_length: tokens per text, special ones included; what exceeds it is cut.
        batch_size: texts per batch at most; on CPUs a batch is further bounded to 1,024 padded tokens, and either way
            memory is bounded whatever the number of texts.
        lowercase: lower-case texts first (within the tokenizer, so that saved folders do the same everywhere).
        device: torch device or its name; default: CUDA where present, else CPU.
        options: which logits of a position count, and which terms are one; default: all, and none.

    Raises:
        TypeError, ValueError: for a model without a usable head, an unknown pooling, a max_length that the model
            cannot hold, a batch_size < 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "max",
        max_length: int = 256,
        batch_size: int = 32,
        lowercase: bool = False,
        device: str | torch.device | None = None,
        options: HeadOptions | None = None,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be 'max' or 'sum', got {pooling!r}")
        self.batch_size = check_integer("batch_size", batch_size)
        self.max_length = check_max_length(max_length, model)
        self.model = on_device(model, default_device(device))
        self.device = self.model.device
        # its own: truncation and padding are a tokenizer's state, which others would switch in the middle of a call
        self.tokenizer = lowercasing(tokenizer) if lowercase else copy.deepcopy(tokenizer)
        self.pooling = pooling
        self.head = check_head(self.model)
        # where padding changes what a text gives, a batch is of texts of one length and has none
        self._padded = padding_error(self.model, self.head) < (2e-4 if self.model.dtype == torch.float32 else 5e-2)
        body = [m.weight.numel() for m in self.model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        self._flops = 2 * (sum(body) + self.head.weight.numel())  # of a token
        if len(self.tokenizer) > self.vocab_size:
            raise ValueError(
                f"tokenizer has {len(self.tokenizer)} tokens, but the model only {self.vocab_size} rows: "
                "they do not belong together"
            )
        self.options = options or HeadOptions()
        self.folding = make_folding(self.options.fold, self.tokenizer, self.vocab_size)

    @property
    def vocab_size(self) -> int:
        """V: rows of the decoder, padding rows included."""
        return self.head.weight.shape[0]

    def encode(
        self, texts: Iterable[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights of texts.

        Args:
            texts: N strings; a blank one gets an all-zero row.
            batch_size: texts per batch at most; default: the encoder's.
            progress: called with the number of texts finished since the last call.

        Returns:
            x, shape (N, V), float32; column = token id (of a folded term: its representative's), ascending in a row.

        Raises:
            TypeError, ValueError: as :func:`check_texts`; and for weights that are NaN or infinite.
        """
        texts = check_texts(texts)
        parts: list[csr_matrix] = []
        order: list[np.ndarray] = []
        # one screen for all batches; a few texts would not pay for it
        top = self.options.position_top_k
        many = self.pooling == "max" and len(texts) >= _MANY_TEXTS and top is None
        weight = self.head.weight
        if many and weight.element_size() == 2 and self.device.type == "cpu":
            weight = weight.float()  # the product in full precision is exact, and screened it is faster
        screen = make_screen(weight) if many else None
        for members, rows, lengths in self._packed(self.head_batches(texts, batch_size=batch_size)):
            with torch.inference_mode(), self._threads(len(rows)):
                weights = packed_head(
                    rows.to(weight.dtype), lengths, weight, self.head.bias, self.pooling, screen=screen,
                    position_top_k=top,
                )  # fmt: skip
                parts.append(to_csr(weights))
            order.append(members)
            if progress:
                progress(len(members))
        blank = len(texts) - sum(map(len, order))
        if progress and blank:
            progress(blank)
        vectors = _in_order(parts, order, len(texts), self.vocab_size)
        broken = np.flatnonzero(~np.isfinite(vectors.data))
        if len(broken):
            place = int(np.searchsorted(vectors.indptr, broken[0], side="right")) - 1
            raise ValueError(
                f"text {place} ({texts[place]!r:.60}) has weights that are no finite numbers: the model holds NaN or "
                f"infinity, or overflows in {self.model.dtype}"
            )
        return fold_rows(vectors, self.folding)

    def head_batches(self, texts: Sequence[str], *, batch_size: int | None = None) -> Iterator[HeadBatch]:
        """Run the model up to its decoder in batches of similar lengths, not in input order; blank texts are left out.

        Tokenising the next window of texts overlaps with the model's work on this one. Until the last batch is taken,
        malloc's settings are others on a CPU, unless the texts are few (:func:`._utils.memory.keep_freed_memory`).
        """
        batch_size = self.batch_size if batch_size is None else check_integer("batch_size", batch_size)
        present = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
        windows = [present[i : i + _WINDOW] for i in range(0, len(present), _WINDOW)]
        on_heap = self.device.type == "cpu" and len(present) >= _MANY_TEXTS
        with keep_freed_memory() if on_heap else nullcontext(), ThreadPoolExecutor(max_workers=1) as pool:
            ids = self._tokenise([texts[i] for i in windows[0]]) if windows else []  # few texts start no thread
            for number, window in enumerate(windows):
                following = [pool.submit(self._tokenise, [texts[i] for i in w]) for w in windows[number + 1 :][:1]]
                for members in self._batches(np.array([len(row) for row in ids]), batch_size):
                    yield self._run(window[members], [ids[i] for i in members])
                ids = following[0].result() if following else []

    def _packed(self, batches: Iterator[HeadBatch]) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Several batches' (texts, rows without padding, rows of each text) at once, as the head's product likes it."""
        few = _HEAD_ROWS if self.device.type == "cpu" else 1
        held: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]] = []
        for batch in batches:
            held.append((batch.texts, batch.hidden[batch.mask], batch.mask.sum(dim=1)))
            if sum(len(rows) for _, rows, _ in held) >= few:
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)

    def _threads(self, tokens: int) -> AbstractContextManager[Any]:
        """One thread for small work."""
        small = self.device.type == "cpu" and tokens * self._flops <= _ONE_THREAD
        return one_thread() if small else nullcontext()

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        return token_ids(self.tokenizer, texts, self.max_length)

    def _batches(self, lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Longest first, so that a batch that does not fit the memory fails at once and not at the end."""
        on_cpu = self.device.type == "cpu"
        budget = _CPU_TOKENS if on_cpu else batch_size * self.max_length
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = max(1, lengths[order[start]])
            size = max(1, min(batch_size, budget // longest))
            if on_cpu:  # half a budget will do where more texts would be padded
                similar = np.count_nonzero(lengths[order[start : start + size]] >= _SIMILAR * longest)
                size = min(size, max(similar, math.ceil(budget / 2 / longest)))
            if not self._padded:
                size = np.count_nonzero(lengths[order[start : start + size]] == lengths[order[start]])
            yield order[start : start + size]
            start += size

    def _run(self, members: np.ndarray, ids: list[list[int]]) -> HeadBatch:
        length = max(map(len, ids))
        padding = self.tokenizer.pad_token_id or 0
        input_ids = np.full((len(ids), length), padding, dtype=np.int64)
        mask = np.zeros((len(ids), length), dtype=bool)
        for row, row_ids in enumerate(ids):
            input_ids[row, : len(row_ids)] = row_ids
            mask[row, : len(row_ids)] = True
        special = np.isin(input_ids, self.tokenizer.all_special_ids) & mask
        tokens = torch.from_numpy(input_ids).to(self.device)
        attended = torch.from_numpy(mask).to(self.device)
        with torch.inference_mode(), evaluating(self.model), self._threads(tokens.numel()):
            hidden = head_input(self.model, input_ids=tokens, attention_mask=attended.long())
        return HeadBatch(members, hidden, attended, torch.from_numpy(special).to(self.device), tokens)


def _joined(
    held: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]],
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    members, rows, lengths = zip(*held, strict=True)
    return np.concatenate(members), torch.cat(rows), torch.cat(lengths)


def to_csr(weights: torch.Tensor) -> csr_matrix:
    """A dense (B, V) tensor of weights >= 0 as a float32 CSR matrix of its non-zeros."""
    rows, columns = weights.nonzero(as_tuple=True)
    data = weights[rows, columns].float().cpu().numpy()
    counts = np.bincount(rows.cpu().numpy(), minlength=weights.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return csr_matrix((data, columns.cpu().numpy().astype(np.int32), indptr), shape=tuple(weights.shape))


def _in_order(parts: list[csr_matrix], order: list[np.ndarray], size: int, vocab_size: int) -> csr_matrix:
    """Stack the parts and put their rows where the texts stood; absent rows are all zero."""
    if not parts:
        return csr_matrix((size, vocab_size), dtype=np.float32)
    members = np.concatenate(order)
    if len(parts) == 1 and np.array_equal(members, np.arange(size)):
        return parts[0]
    place = np.full(size, -1, dtype=np.int64)
    place[members] = np.arange(len(members))
    stacked = vstack([*parts, csr_matrix((1, vocab_size), dtype=np.float32)], format="csr")  # row -1 is empty
    result = stacked[place]
    result.sort_indices()
    return result


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is asked for; else CUDA where present, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model itself where it is there already, else a copy: others may hold the model."""
    here = model.device
    same = here.type == device.type and (device.index is None or here.index == device.index)
    return model if same else copy.deepcopy(model).to(device)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, *, special: bool = True
) -> list[list[int]]:
    """Token ids of texts, cut to ``max_length``, without padding; one thread at a time per tokenizer."""
    with lock_of(tokenizer):
        return tokenizer(
            texts,
            add_special_tokens=special,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]


def lowercasing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of a fast tokenizer that lower-cases its input first.

    Raises:
        ValueError: if the tokenizer is not a fast one.
    """
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"lowercase=True needs a fast tokenizer, got a {type(tokenizer).__name__}")
    tokenizer = copy.deepcopy(tokenizer)
    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer is not None else [])
    backend.normalizer = normalizers.Sequence(steps)
    return tokenizer
