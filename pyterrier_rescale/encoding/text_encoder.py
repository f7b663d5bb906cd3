"""Texts to term weights: tokenise, sort by length, batch under a token budget, run the kernel, return CSR."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from threadpoolctl import ThreadpoolController

from .._utils.checks import check_integer
from ..heads.checkpoint import load_model, load_tokenizer
from ..heads.decoder import check_head, evaluating, head_input, padding_error
from ..heads.fingerprint import tokenizer_fingerprint
from ..heads.rescaling import shift_logits
from .blocks import text_batches
from .description import Description, QuerySide
from .kernel import packed_head
from .lexical import ProductEncoder, StaticEncoder
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
        description: how logits become weights, and where texts are cut; what it says of lower-casing and of a shift is
            done to copies of tokenizer and model, so that saved folders do the same everywhere.
        batch_size: texts per batch at most; on CPUs a batch is further bounded to 1,024 padded tokens, and either way
            memory is bounded whatever the number of texts.
        device: torch device or its name; default: as :func:`default_device` says.

    Attributes:
        description: what is left to be done beside the model and its tokenizer, lengths resolved.

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
            description = description.replace(shift=_closing(tokenizer.all_special_ids, description.shift, model))
        if description.shift is not None:
            model = shift_logits(model, description.shift)
        self.model = on_device(model, default_device(device))
        self.device = self.model.device
        # its own: truncation and padding are a tokenizer's state, which others would switch in the middle of a call
        self.tokenizer = lowercasing(tokenizer) if description.lowercase else copy.deepcopy(tokenizer)
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
        queries = self._loaded(description.queries, description)
        self.description = description.replace(
            max_length=length, lowercase=False, shift=None, special_terms=True, queries=queries
        )
        self.folding = Folding(self.tokenizer, self.vocab_size) if description.fold else None
        self._told = False

    def _loaded(self, side: QuerySide, how: Description) -> QuerySide:
        """The query side with its model and tokenizer loaded, static weights as many as rows of the head."""
        found: dict[str, Any] = {}
        if isinstance(side.model, str):
            found["model"] = load_model(side.model, self.model.dtype)
            if not how.special_terms:
                closing = _closing(self.tokenizer.all_special_ids, None, found["model"])
                found["model"] = shift_logits(found["model"], closing, inplace=True)
        if isinstance(side.tokenizer, str):
            tokenizer = load_tokenizer(side.tokenizer)
            found["tokenizer"] = lowercasing(tokenizer) if how.lowercase and side.model is not None else tokenizer
            if side.model is None and tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(self.tokenizer):
                found["tokenizer"] = None
        if side.weights is not None:
            missing = self.vocab_size - len(side.weights)
            if missing < 0:
                raise ValueError(
                    f"there are {len(side.weights)} static query weights, more than the {self.vocab_size} rows of the "
                    "head: they do not belong together"
                )
            found["weights"] = np.pad(side.weights, (0, missing))
        return dataclasses.replace(side, **found)

    def of_queries(self) -> TextEncoder | StaticEncoder | ProductEncoder:
        """The encoder of queries; this one where they are encoded as documents are.

        Raises:
            ValueError: for another model of another vocabulary.
        """
        side, asked = self.description.queries, self.description.of_queries()
        if side.alike and side.max_length is None:
            return self
        if side.model is not None:
            encoder = TextEncoder(side.model, side.tokenizer, asked, batch_size=self.batch_size, device=self.device)
            if encoder.vocab_size != self.vocab_size:
                raise ValueError(
                    f"the model of queries must have the documents' vocabulary of {self.vocab_size}, got "
                    f"{encoder.vocab_size}"
                )
            return encoder
        tokenizer = side.tokenizer or self.tokenizer
        if side.weights is not None and not side.times_model:
            return StaticEncoder(tokenizer, side.weights, asked.max_length, self.folding)
        encoder = copy.copy(self)
        encoder.description = asked.replace(max_length=check_max_length(asked.max_length, self.model, tokenizer))
        if side.weights is None:
            return encoder
        static = StaticEncoder(tokenizer, side.weights, asked.max_length, self.folding, special=True)
        return ProductEncoder(encoder, static)

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
        """Term weights of texts.

        Args:
            texts: N strings, which have been checked; a blank one gets an all-zero row.
            batch_size: texts per batch at most; default: the encoder's.
            progress: called with the number of texts finished since the last call.

        Returns:
            x, shape (N, V), float32; column = token id (of a folded term: its representative's), ascending in a row.

        Raises:
            ValueError: for weights that are NaN or infinite.
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
        for members, rows, lengths in self._packed(self.head_batches(texts, batch_size=batch_size)):
            with torch.inference_mode(), self._threads(len(rows)):
                given = rows.to(weight.dtype), lengths, weight, head.bias
                parts.append(to_csr(packed_head(*given, how, screen=screen, after=head.after)))
            order.append(members)
            cut += int((lengths == self.max_length).sum())
            if progress:
                progress(len(members))
        blank = len(texts) - sum(map(len, order))
        if progress and blank:
            progress(blank)
        self._tell_cut(cut, len(texts))
        vectors = _in_order(parts, order, len(texts), self.vocab_size)
        broken = np.flatnonzero(~np.isfinite(vectors.data))
        if len(broken):
            place = int(np.searchsorted(vectors.indptr, broken[0], side="right")) - 1
            raise ValueError(
                f"text {place} ({texts[place]!r:.60}) has weights that are no finite numbers: the model holds NaN or "
                f"infinity, or overflows in {self.model.dtype}"
            )
        return fold_rows(vectors, self.folding)

    def _tell_cut(self, cut: int, texts: int) -> None:
        """Say once that texts were cut, and how many."""
        if cut and not self._told:
            self._told = True
            warnings.warn(
                f"{cut} of {texts} texts ({cut / texts:.0%}) have max_length={self.max_length} tokens or more; what is "
                "beyond was not encoded (said once)",
                stacklevel=4,
            )

    def head_batches(self, texts: Sequence[str], *, batch_size: int | None = None) -> Iterator[HeadBatch]:
        """Run the model up to its decoder in batches of similar lengths, not in input order; blank texts are left out.

        Tokenising the next window of texts overlaps with the model's work on this one.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        budget = None if self.device.type == "cpu" else batch_size * self.max_length
        present = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
        windows = [present[i : i + _WINDOW] for i in range(0, len(present), _WINDOW)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            ids = self._tokenise([texts[i] for i in windows[0]]) if windows else []  # few texts start no thread
            for number, window in enumerate(windows):
                following = [pool.submit(self._tokenise, [texts[i] for i in w]) for w in windows[number + 1 :][:1]]
                lengths = np.array([len(row) for row in ids])
                for members in text_batches(lengths, batch_size, budget, alike=not self._padded):
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
        return thread_pools().limit(limits=1, user_api="openmp") if small else nullcontext()

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        return token_ids(self.tokenizer, texts, self.max_length)

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


@cache
def thread_pools() -> ThreadpoolController:
    """The process's OpenMP and BLAS libraries; OpenMP's number of threads is one of each calling thread."""
    return ThreadpoolController()


def _closing(ids: list[int], shift: float | np.ndarray | None, model: PreTrainedModel) -> np.ndarray:
    """A shift that also lets some terms never fire, (V,)."""
    shifts = np.broadcast_to(np.float32(0 if shift is None else shift), model.get_output_embeddings().weight.shape[0])
    shifts = shifts.copy()
    shifts[ids] += _CLOSED
    return shifts


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
    place = np.full(size, -1, dtype=np.int64)
    place[members] = np.arange(len(members))
    stacked = vstack([*parts, csr_matrix((1, vocab_size), dtype=np.float32)], format="csr")  # row -1 is empty
    result = stacked[place]
    result.sort_indices()
    return result


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is asked for; else CUDA where present, else Apple's MPS, else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(device)


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model itself where it is there already, else a copy: others may hold the model."""
    here = model.device
    same = here.type == device.type and (device.index is None or here.index == device.index)
    return model if same else copy.deepcopy(model).to(device)
