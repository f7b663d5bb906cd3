"""A teacher of one's own: any scorer writes its scores of training rows once, for losses that distil."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.checks import check_choice, warn
from .._utils.files import expand, write_whole
from .._utils.made_from import alone, claim
from .._utils.progress import progress_bar
from ..encoding.text_encoder import default_device
from ..heads.fingerprint import model_fingerprint
from ..heads.hub_files import check_source
from .loading import ROWS_FILE, load_rows
from .negatives import load_stage, mine_negatives

#: What the output folder holds: rows while some are missing, and the record of what they are made from.
PART_FILE, RECORD_FILE = "unfinished.jsonl", "made-from.json"
# Pairs that are scored, and kept, together.
_PAIRS = 256


def score(
    data: Any,
    scorer: Any,
    output_dir: str | os.PathLike[str],
    *,
    texts: Any = None,
    columns: Sequence[str] | None = None,
    negatives: int = 0,
    retriever: Any = "bm25",
    overwrite: bool = False,
    verbose: bool = True,
) -> Path:
    """Score queries with their documents by a teacher, into a file that ``train`` reads; the same call continues.

    Args:
        data: as for :func:`~pyterrier_rescale.train`, as are the next two.
        scorer: a PyTerrier stage that gives ``qid, query, docno, text`` a ``score``; or the hub name or folder of a
            cross-encoder (a sequence classifier with one output) or of a SPLADE encoder.
        output_dir: folder of ``rows.jsonl``, which ``train`` reads; the file is there when all rows are scored.
        texts: where the texts stand, if the data are ids.
        columns: of a file without a header.
        negatives: so many hard negatives are mined for each row first.
        retriever: what finds them: ``"bm25"``, an encoder, or a PyTerrier retriever whose results have a ``text``.
        overwrite: start anew where the folder holds scores of other data or of another scorer.
        verbose: show a progress bar.

    A scorer or retriever with an attribute ``fingerprint`` is told from others by it, else by its name alone.

    Returns:
        The file: ``query``, ``positive``, ``negatives``, ``scores`` in each line. ``train(..., negative_margin=M)``
        drops false negatives: those that the teacher scores above the positive's score minus M.

    Raises:
        ValueError, TypeError, FileNotFoundError, FileExistsError: for data, a scorer or a folder that cannot serve; if
            the folder was made from other inputs, naming them.
        RuntimeError: if another process works in ``output_dir``.
    """
    rows, folder = load_rows(data, texts, columns=columns), expand(output_dir)
    bare = next((place for place, row in enumerate(rows) if len(row.documents) == 1), None)
    if not negatives and bare is not None:
        raise ValueError(
            f"negatives must be at least 1, as row {bare} of data has none: losses that distil compare documents"
        )
    teacher, scored_by = _teacher(scorer)  # before the folder is claimed
    retriever, mined_by = load_stage(retriever) if negatives else (None, "")
    made_from = {"data": rows.fingerprint, "scorer": scored_by, "negatives": negatives, "retriever": mined_by}
    with alone(folder):
        claim(folder, RECORD_FILE, made_from, overwrite=overwrite, made=[ROWS_FILE, PART_FILE])
        file = folder / PART_FILE
        for stage in (teacher, retriever):
            named_alone = isinstance(stage, pt.Transformer) and not hasattr(stage, "fingerprint")
            if named_alone and (file.exists() or (folder / ROWS_FILE).exists()):
                warn(f"scores in {str(folder)!r} are taken for those by {stage}, which has no fingerprint to compare")
        if (folder / ROWS_FILE).exists():
            return folder / ROWS_FILE
        whole = file.read_text(encoding="utf-8").rpartition("\n")[0] if file.exists() else ""
        done = len(whole.split("\n")) if whole else 0
        write_whole(file, whole + "\n" if done else "")  # without a line that was cut off
        if negatives:
            rows = mine_negatives(rows, negatives, retriever=retriever, verbose=verbose)
        step = max(1, _PAIRS // len(rows[0].documents))
        with progress_bar(total=len(rows), initial=done, desc="scoring", unit="row", disable=not verbose) as bar:
            for start in range(done, len(rows), step):
                part = [rows[place] for place in range(start, min(start + step, len(rows)))]
                with file.open("a", encoding="utf-8") as out:
                    for row, scores in zip(part, _scores(part, teacher), strict=True):
                        positive, *others = row.documents
                        line = {"query": row.query, "positive": positive, "negatives": others, "scores": scores}
                        print(json.dumps(line, ensure_ascii=False), file=out)
                bar.update(len(part))
        return file.replace(folder / ROWS_FILE)


def _scores(rows: Sequence[Any], teacher: pt.Transformer) -> list[list[float]]:
    """The teacher's scores of some rows, document by document."""
    pairs = [(str(number), row.query, text) for number, row in enumerate(rows) for text in row.documents]
    frame = pd.DataFrame(pairs, columns=["qid", "query", "text"])
    frame["docno"] = [str(place) for place in range(len(pairs))]
    found = teacher(frame).set_index("docno")["score"].astype(float)
    scores = iter(found[frame["docno"]].tolist())
    return [[next(scores) for _ in row.documents] for row in rows]


def _teacher(name: Any) -> tuple[pt.Transformer, str]:
    """The cross-encoder or SPLADE encoder of that name, or the stage that is given; and what tells it from others."""
    if not isinstance(name, (str, os.PathLike)):
        return load_stage(name)
    from transformers import AutoConfig, pipeline

    check_source(name, "scorer")
    config = AutoConfig.from_pretrained(name)
    if not (config.architectures or [""])[0].endswith("ForSequenceClassification"):
        return load_stage(load_stage(name)[0].scorer())
    check_choice(f"outputs of the cross-encoder {str(name)!r}", config.num_labels, [1])
    classify = pipeline("text-classification", str(name), function_to_apply="none", device=default_device(None))
    how = {"batch_size": 32, "truncation": True, "max_length": min(512, classify.tokenizer.model_max_length)}

    def cross_encode(pairs: pd.DataFrame) -> pd.DataFrame:
        inputs = pairs[["query", "text"]].set_axis(["text", "text_pair"], axis=1).to_dict("records")
        return pairs.assign(score=[one["score"] for one in classify(inputs, **how)])

    stage = pt.apply.generic(cross_encode)
    stage.fingerprint = model_fingerprint(classify.model)
    return load_stage(stage)
