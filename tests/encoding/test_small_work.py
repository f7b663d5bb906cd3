"""A query's work runs on one thread, large work on all; the process's setting is left as it was."""

from __future__ import annotations

import threading

import pytest
import tiny
import torch

from pyterrier_rescale import Splade
from pyterrier_rescale.encoding import text_encoder
from pyterrier_rescale.encoding.threads import _torch_library

pytestmark = pytest.mark.skipif(_torch_library() is None, reason="torch is built without OpenMP or MKL")


@pytest.fixture
def watched(bert_folder, monkeypatch):
    """An encoder, and the threads that its body and its head had at each run."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    splade, seen = Splade(bert_folder), []
    head = text_encoder.packed_head

    def watch(*args, **kwargs):
        seen.append(("head", torch.get_num_threads()))
        return head(*args, **kwargs)

    monkeypatch.setattr(text_encoder, "packed_head", watch)
    splade.encoder.model.register_forward_pre_hook(lambda *_: seen.append(("body", torch.get_num_threads())))
    yield splade, seen
    torch.set_num_threads(before)


def test_small_and_large(watched, monkeypatch):
    splade, seen = watched
    alone = splade.encode_queries(tiny.TEXTS[:1])
    assert seen == [("body", 1), ("head", 1)] and torch.get_num_threads() == 3
    monkeypatch.setattr(text_encoder, "_ONE_THREAD", 0)
    together = splade.encode_queries(tiny.TEXTS[:1])
    assert seen[2:] == [("body", 3), ("head", 3)]
    assert abs(alone - together).max() < 1e-6


def test_the_limit_counts_layers_and_head_once_per_token(watched, monkeypatch):
    splade, seen = watched
    tokens = len(splade.encoder.tokenizer(tiny.TEXTS[0])["input_ids"])
    bert = splade.encoder.model.bert.encoder
    linear = sum(layer.weight.numel() for layer in bert.modules() if isinstance(layer, torch.nn.Linear))
    work = 2 * tokens * (linear + splade.encoder.head.weight.numel())
    for limit, threads in [(work, 1), (work - 1, 3)]:
        monkeypatch.setattr(text_encoder, "_ONE_THREAD", limit)
        splade.encode_queries(tiny.TEXTS[:1])
        assert seen[-2:] == [("body", threads), ("head", threads)]


def test_after_an_error(watched):
    splade, _ = watched

    def fail(*_):
        assert torch.get_num_threads() == 1
        raise RuntimeError("no")

    hook = splade.encoder.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        splade.encode_queries(tiny.TEXTS[:1])
    hook.remove()
    assert torch.get_num_threads() == 3


def test_two_threads_with_encoders_of_their_own(watched, bert_folder):
    """Each inside its forward at the same time as the other."""
    both = threading.Barrier(2, timeout=60)
    seen = []

    def encode(splade):
        def meet(*_):
            both.wait()
            seen.append(torch.get_num_threads())
            both.wait()

        splade.encoder.model.register_forward_pre_hook(meet)
        splade.encode_queries(tiny.TEXTS[:1])
        seen.append(torch.get_num_threads())

    workers = [threading.Thread(target=encode, args=[Splade(bert_folder)]) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [1, 1, 3, 3] and torch.get_num_threads() == 3


def test_few_texts_start_no_thread(bert_folder, monkeypatch):
    splade, started, start = Splade(bert_folder), [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread) or start(thread))
    assert splade.encode_docs(tiny.TEXTS).nnz and not started
    monkeypatch.setattr(text_encoder, "_WINDOW", 7)
    assert splade.encode_docs(tiny.TEXTS).nnz and started
