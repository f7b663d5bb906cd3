"""What every way to a backbone shares: its texts, its place in the cache, its record, the progress of its steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._utils.checks import check_is_list
from .._utils.memory import keep_freed_memory
from .._utils.paths import cache_dir, expand, whole_folder
from .._utils.progress import progress_bar
from ..heads.checkpoint import no_weight_bars
from .settings import Settings

NOTE = (
    "Pretrained as a masked LM on the texts it was given. Those of a whole collection include, unlabelled, the "
    "documents that its test topics look for."
)


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts that are not blank.

    Raises:
        TypeError: if ``texts`` is one string, or holds something else than strings.
        ValueError: if there is no text.
    """
    check_is_list(texts, "strings")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be str, got {text!r} at {number}")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("texts must hold at least one text that is not blank")
    return texts


def cached(
    cache: str | os.PathLike[str] | None,
    kind: str,
    settings: Settings,
    texts: list[str],
    build: Callable[[], tuple[Any, Any, dict[str, Any]]],
    source: dict[str, str] | None = None,
) -> Path:
    """The folder of the backbone that was made so before, or else of the one that is built now.

    ``build`` gives model, tokenizer and what its record tells; ``source`` tells the model that gets a head from others.
    """
    versions = library_versions()
    root = cache_dir("backbones") if cache is None else expand(cache)
    folder = root / f"{kind}-{settings.fingerprint(texts, versions, source and source['fingerprint'])}"
    if (folder / "backbone.json").is_file():
        return folder
    # it exists if another process was quicker
    with suppress(FileExistsError), whole_folder(folder) as beside, keep_freed_memory():
        model, tokenizer, report = build()
        with no_weight_bars():
            model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        given = {"settings": asdict(settings), **({"source": source} if source else {}), "versions": versions}
        record = {**given, "texts": len(texts), **report, "note": NOTE}
        (beside / "backbone.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    if not (folder / "backbone.json").is_file():
        raise FileExistsError(f"{str(folder)!r} is in the place of a cached backbone and is none: move it away")
    return folder


@contextmanager
def shown_steps(steps: int, what: str, verbose: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """What to call after each step, with the latest losses; a progress bar if ``verbose``."""
    with progress_bar(total=steps, desc=f"pretraining {what}", unit="step", disable=not verbose) as bar:

        def progress(row: dict[str, float]) -> None:
            bar.set_postfix(loss=row.get("loss"), refresh=False)
            bar.update()

        yield progress


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the weights."""
    import tokenizers
    import torch
    import transformers

    return {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
