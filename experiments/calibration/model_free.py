"""What the study's word pieces reach without a model: ``python experiments/calibration/model_free.py --collections C``.

Pieces x IDF and BM25 on pieces, of the two tokenizers that the study's backbones were pretrained with (V=8,000), on the
same 96 tokens of each text; nDCG@10 of exact scores on the test topics.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from one_run import PRETRAINING_STEPS, TRAINING, Study, score
from plan import TRAINED_ON, UNSEEN

from pyterrier_rescale import LexicalEncoder
from pyterrier_rescale.backbones import BackboneSettings
from pyterrier_rescale.backbones.architectures import train_tokenizer

NAMES = (*TRAINED_ON, "medquad", *UNSEEN)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    study = Study(parser.parse_args().collections, Path())
    print("| pieces of | weights |", " | ".join(NAMES), "|\n| --- | --- |", " --- |" * len(NAMES))
    for family in ("bert", "modernbert"):
        tokenizer = train_tokenizer(BackboneSettings(family, steps=PRETRAINING_STEPS), study.texts())
        for weighting in ("tokens", "bm25"):
            cells = []
            for name in NAMES:
                texts = [document["text"] for document in study.collection(name).corpus()]
                encoder = LexicalEncoder(
                    tokenizer, idf_from=texts, weighting=weighting, max_length=TRAINING["max_length"]
                )
                cells.append(f"{score(encoder, study.collection(name))['ndcg']:.3f}")
            print("|", family, "|", weighting, "|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
