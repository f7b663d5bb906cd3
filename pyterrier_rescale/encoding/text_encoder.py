"""Texts to term weights: tokenise, sort by length, batch under a token budget, run the kernel, return CSR."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from threadpoolctl import ThreadpoolController
from torch.nn.utils.rnn import pad_sequence

from .._utils.checks import check_integer, warn
from ..heads.checkpoint import load_model, load_tokenizer
from ..heads.decoder import check_head, evaluating, head_input, padding_error
from ..heads.rescaling import shift_logits
from .blocks import text_batches
from .description import Description, QuerySide
from .kernel import packed_head, pooled_positions
from .lexical import StaticEncoder
from .screening import make_screen
from .terms import Folding, fold_rows
from .texts import check_max_length, lowercasing, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Texts that are tokenised and sorted together: enough for batches of nearly equal lengths, little to hold.
_WINDOW = 2048
# Rows from which the head's product is at its full rate.
_HEAD_ROWS = 3072
# From how many texts a screen of W pays.
_MANY_TEXTS = 8
# Floating-point operations of a batch up to which it runs on one thread: a query's, some ten milliseconds. Beside other
# busy processes its fifty small operations would wait for the last thread ten times as long as they work.
_ONE_THREAD = 1e9
# Far above any logit, and a number in half precision, too.
_CLOSED = 1e4
# The process's OpenMP and BLAS libraries; OpenMP's number of threads is one of each calling thread.
_thread_pools = cache(ThreadpoolController)


class HeadBatch(NamedTuple):
    """One batch on its way through the head."""

    texts: np.ndarray  # positions of the B texts in the input
    hidden: torch.Tensor  # t, (B, L, H)
    mask: torch.Tensor  # positions that take part in pooling, bool (B, L)
    special: torch.Tensor  # those of them where special tokens ([CLS], [SEP], ...) stand, bool (B, L)
    input_ids: torch.Tensor  # (B, L)
    lengths: torch.Tensor  # tokens of each text, (B,)


class TextEncoder:
    """Encode texts with a masked LM's sparse head.

    The model is left in its mode and on its device (another ``device`` gets a copy), the tokenizer is copied. What the
    description says of lower-casing, of a shift and of special terms is done to copies of both, so that saved folders
    do the same everywhere; the attribute ``description`` is what is left to be done, lengths resolved.

    Raises:
        TypeError, ValueError: for a model without a usable head, a max_length that the model cannot hold, a tokenizer
            of another model, a batch_size < 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        description: Description | None = None,
        *,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> None:
        description = description or Description()
        self.batch_size = check_integer("batch_size", batch_size)
        length = check_max_length(description.max_length, model, tokenizer)
        if not description.special_terms:
            shifts = np.zeros(len(model.get_output_embeddings().weight), dtype=np.float32)
            shifts += 0 if description.shift is None else description.shift
            shifts[tokenizer.all_special_ids] += _CLOSED
            description = description.replace(shift=shifts)
        if description.shift is not None:
            model = shift_logits(model, description.shift)
        wanted, here = default_device(device), model.device
        there = here.type == wanted.type and wanted.index in (None, here.index)
        self.model = model if there else copy.deepcopy(model).to(wanted)  # others may hold it
        self.device = self.model.device
        # its own: truncation and padding are a tokenizer's state, which others would switch in the middle of a call
        self.tokenizer = lowercasing(tokenizer) if description.lowercase else copy.deepcopy(tokenizer)
        self.head = check_head(self.model)
        # where padding changes what a text gives, a batch is of texts of one length and has none
        self._padded = padding_error(self.model, self.head) < (2e-4 if self.model.dtype == torch.float32 else 5e-2)
        self._flops = 2 * self.model.num_parameters()  # of a token, about
        weights = description.queries.weights
        for what, size in (("tokens", len(self.tokenizer)), ("query weights", 0 if weights is None else len(weights))):
            if size > self.vocab_size:
                raise ValueError(
                    f"there are {size} {what}, more than the {self.vocab_size} rows of the model's head: they do not "
                    "belong together"
                )
        self.folding = Folding(self.tokenizer, self.vocab_size) if description.fold else None
        self._told = False
        self.description = description.replace(max_length=length, lowercase=False, shift=None, special_terms=True)
        side, self._queries = self._query_side(description)
        self.description = self.description.replace(queries=side)

    def of_queries(self) -> TextEncoder | StaticEncoder:
        """The encoder of queries; this one where they are encoded as documents are."""
        return self._queries or self

    def _query_side(self, how: Description) -> tuple[QuerySide, TextEncoder | StaticEncoder | None]:
        """The query side with what it names loaded, static weights as many as rows of the head; and its encoder."""
        side, asked = how.queries, self.description.of_queries()
        if side.alike and side.max_length is None:
            return side, None
        tokenizer = load_tokenizer(side.tokenizer) if isinstance(side.tokenizer, str) else side.tokenizer
        if side.model is not None:
            model = load_model(side.model, self.model.dtype) if isinstance(side.model, str) else side.model
            asked = asked.replace(lowercase=how.lowercase, special_terms=how.special_terms)
            other = TextEncoder(model, tokenizer, asked, batch_size=self.batch_size, device=self.device)
            if other.vocab_size != self.vocab_size:
                raise ValueError(
                    f"the model of queries must have the documents' vocabulary of {self.vocab_size}, got "
                    f"{other.vocab_size}"
                )
            return dataclasses.replace(side, model=other.model, tokenizer=other.tokenizer), other
        encoder = copy.copy(self)
        encoder.description, encoder._queries = asked, None
        times = side.times_model
        if side.weights is None or times:
            check_max_length(asked.max_length, self.model, self.tokenizer)
        if side.weights is None:
            return side, encoder
        weights = np.pad(side.weights, (0, self.vocab_size - len(side.weights)))
        given = tokenizer or self.tokenizer, weights, asked.max_length, self.folding
        static = StaticEncoder(*given, special=times, times=encoder if times else None)
        return dataclasses.replace(side, tokenizer=tokenizer, weights=weights), static

    @property
    def vocab_size(self) -> int:
        """V: rows of the decoder, padding rows included."""
        return self.head.weight.shape[0]

    @property
    def max_length(self) -> int:
        """Tokens per text."""
        return int(self.description.max_length)

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights x of N texts, (N, V), float32; column = token id, ascending in a row.

        The texts have been checked; a blank one gets an all-zero row. A folded term stands at its representative's id.
        ``progress`` is called with the number of texts finished since the last call. ``ValueError`` for weights that
        are NaN or infinite.
        """
        parts: list[csr_matrix] = []
        order: list[np.ndarray] = []
        how, head, weight = self.description, self.head, self.head.weight
        # one screen for all batches; a few texts would not pay for it
        screened = how.pooling == "max" and len(texts) >= _MANY_TEXTS and how.position_top_k is None
        if screened and weight.element_size() == 2 and self.device.type == "cpu":
            weight = weight.float()  # the product in full precision is exact, and screened it is faster
        screen = make_screen(weight) if screened else None
        cut = 0
        for batches in self._together(self.head_batches(texts, batch_size=batch_size)):
            rows = torch.cat([batch.hidden[batch.mask] for batch in batches])
            lengths = torch.cat([batch.mask.sum(dim=1) for batch in batches])
            with torch.inference_mode(), self._threads(len(rows)):
                given = rows.to(weight.dtype), lengths, weight, head.bias
                parts.append(to_csr(packed_head(*given, how, screen=screen, after=head.after)))
            order += [batch.texts for batch in batches]
            cut += sum(int((batch.lengths == self.max_length).sum()) for batch in batches)
            if progress:
                progress(len(lengths))
        if progress:
            progress(len(texts) - sum(map(len, order)))  # blank ones
        if cut and not self._told:
            self._told = True
            warn(
                f"{cut} of {len(texts)} texts ({cut / len(texts):.0%}) have max_length={self.max_length} tokens or "
                "more; what is beyond was not encoded (said once)"
            )
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

        Tokenising the next window of texts overlaps with the model's work on this one.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        budget = None if self.device.type == "cpu" else batch_size * self.max_length
        present = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
        windows = np.split(present, range(_WINDOW, len(present), _WINDOW))

        def tokenise(window: np.ndarray) -> list[list[int]]:
            return token_ids(self.tokenizer, [texts[i] for i in window], self.max_length)

        with ThreadPoolExecutor(max_workers=1) as pool:
            ids = tokenise(windows[0])  # few texts start no thread
            for number, window in enumerate(windows):
                following = [pool.submit(tokenise, later) for later in windows[number + 1 :][:1]]
                lengths = np.array([len(row) for row in ids])
                for members in text_batches(lengths, batch_size, budget, alike=not self._padded):
                    yield self._run(window[members], [ids[i] for i in members])
                ids = following[0].result() if following else []

    def _together(self, batches: Iterator[HeadBatch]) -> Iterator[list[HeadBatch]]:
        """Several batches at once, as many as the head's product likes."""
        few = _HEAD_ROWS if self.device.type == "cpu" else 1
        held: list[HeadBatch] = []
        for batch in batches:
            held.append(batch)
            if sum(part.input_ids.numel() for part in held) >= few:
                yield held
                held = []
        if held:
            yield held

    def _threads(self, tokens: int) -> AbstractContextManager[Any]:
        """One thread for small work."""
        small = self.device.type == "cpu" and tokens * self._flops <= _ONE_THREAD
        return _thread_pools().limit(limits=1, user_api="openmp") if small else nullcontext()

    def _run(self, members: np.ndarray, ids: list[list[int]]) -> HeadBatch:
        rows, special = [torch.tensor(row, dtype=torch.long) for row in ids], self.tokenizer.all_special_ids
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0).to(self.device)
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        attended = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        with torch.inference_mode(), evaluating(self.model), self._threads(tokens.numel()):
            hidden = head_input(self.model, input_ids=tokens, attention_mask=attended.long())
        mask = pooled_positions(self.description, tokens, attended, special)
        special_tokens = torch.isin(tokens, torch.tensor(special, device=self.device))
        return HeadBatch(members, hidden, mask, mask & special_tokens, tokens, lengths)


def to_csr(weights: torch.Tensor) -> csr_matrix:
    """A dense (B, V) tensor of weights >= 0 as a float32 CSR matrix of its non-zeros."""
    rows, columns = weights.nonzero(as_tuple=True)
    data = weights[rows, columns].float().cpu().numpy()
    counts = np.bincount(rows.cpu().numpy(), minlength=weights.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return csr_matrix((data, columns.cpu().numpy().astype(np.int32), indptr), shape=tuple(weights.shape))


def _in_order(parts: list[csr_matrix], order: list[np.ndarray], size: int, vocab_size: int) -> csr_matrix:
    """Stack the parts and put their rows where the texts stood; absent rows are all zero."""
    stacked = vstack([csr_matrix((0, vocab_size), dtype=np.float32), *parts], format="csr")
    places = np.concatenate([np.empty(0, dtype=np.int64), *order])
    ones = np.ones(len(places), dtype=np.float32)
    result = csr_matrix((ones, (places, np.arange(len(places)))), shape=(size, len(places))) @ stacked
    result.sort_indices()
    return result


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is asked for; else CUDA where present, else Apple's MPS, else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(device)
