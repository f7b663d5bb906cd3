"""Options of published recipes by name, for ``train(..., recipe=NAME)``; options that are given beside it win."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._utils.checks import check_choice


class Recipe(NamedTuple):
    """Plain options of ``train``, where they are from, and what of the published run they do not bring."""

    options: dict[str, Any]
    source: str
    missing: str


_SPLADE_MAX = {
    "loss": "infonce", "negatives": 1, "batch_size": 128, "max_steps": 150_000, "learning_rate": 2e-5,
    "warmup_steps": 6_000, "lambda_q": 3e-4, "lambda_d": 1e-4, "ramp_steps": 50_000, "max_length": 256,
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "paper": Recipe(
        {"rescale": 16.0, **_SPLADE_MAX},
        "division by 16: arXiv:2606.18811; the rest is SPLADE-max of arXiv:2109.10086, as naver/splade configures it",
        "data: MS MARCO triples. The paper's own rates and penalties are not known to us",
    ),
    "splade-v3": Recipe(
        {"rescale": None, "loss": ("kl", "margin_mse"), "loss_weights": (1.0, 0.05), "negatives": 8,
         "batch_size": 16, "learning_rate": 2e-5, "max_length": 256},
        "arXiv:2403.06789: KL and 0.05 times MarginMSE, 8 negatives a query; MS MARCO dev MRR@10 40.2, BEIR-13 51.7",
        "start: naver/splade-cocondenser-selfdistil; negatives of its top 50 and top 1000; scores of five cross-"
        "encoders together. We are not sure of batch and rate; the penalties are our defaults",
    ),
    "opensearch-doc-v3": Recipe(
        {"rescale": None, "loss": "kl", "negatives": 1, "queries": "static", "static_learning_rate": 0.0,
         "activation": "log1p_relu", "flops_threshold": 150, "lambda_d": 0.08, "ramp_steps": 40_000, "batch_size": 160,
         "max_steps": 100_000, "warmup_steps": 6_000, "learning_rate": 2e-5, "max_grad_norm": 0.0, "max_length": 256},
        "arXiv:2504.14839 and 2411.04403, config_l0.yaml of opensearch-sparse-model-tuning-sample; BEIR-13 of "
        "doc-v3-gte 54.6",
        "start: Luyu/co-condenser-marco (v3-gte: another one); scores of dense and sparse teachers together; the IDF "
        "of MS MARCO (ours: of the training documents); a penalty for each place among a query's documents, where "
        "ours is one over all. We are not sure that query weights stay fixed",
    ),
    "sparseup": Recipe(
        {"rescale": None, "shift": 15.0, "position_top_k": 12, "fold": "case", "loss": "infonce", "negatives": 7},
        "Linkup 2026, model card of Linkup-Platform/linkup-sparseup-embed-v1; BEIR-13 56.4 on ModernBERT-base",
        "start: LateOn-unsupervised with ModernBERT's head; LightOn's data, 7 of 50 mined negatives; prefixes [Q], "
        "[D]. Batch, rate, steps and penalties are our defaults, as we do not know theirs",
    ),
}  # fmt: skip


def with_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Options with those of the recipe that they name, if any, put under them; ``ValueError`` for an unknown one."""
    options = dict(options)
    name = check_choice("recipe", options.pop("recipe", None), [None, *RECIPES])
    return options if name is None else {**RECIPES[name].options, **options}
