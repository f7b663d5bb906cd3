"""What a model's config remembers of a rescale and of a shift, so that none happens twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Name of the config entry.
PROVENANCE = "pyterrier_rescale"


def provenance(model: PreTrainedModel) -> dict[str, Any] | None:
    """What the config says about an earlier rescale, or ``None``."""
    return getattr(model.config, PROVENANCE, None)


def record(model: PreTrainedModel, **entries: Any) -> None:
    """Add entries to the provenance in the model's config (plain JSON values)."""
    setattr(model.config, PROVENANCE, {**(provenance(model) or {}), **entries})


def refuse_rescaled(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` if the model's config says that its head has been rescaled (a shift alone does not)."""
    done = provenance(model) or {}
    if "k" in done:
        raise ValueError(
            f"model has been rescaled already (method={done.get('method')!r}, k={done['k']:g}); start from the "
            "original backbone, or use it as it is (rescale=None)"
        )
