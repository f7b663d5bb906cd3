"""sentence-transformers' SparseEncoderTrainer with our loader, objective and bookkeeping in place of its own.

Kept are its loop, accelerate (DDP, bf16), schedules, checkpoints and reporting. Overridden is what costs time in every
step (column merging, loss tracking, card statistics) or hides a collapse (NaN components replaced in logs).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sparse_encoder import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from .callbacks import not_finite, seal
from .config import TrainConfig
from .data.rows import Row, Rows, text_id
from .distributed import on_cpu, world
from .losses import Objective
from .model import SparseHead

# States of module and regularisers in a checkpoint.
_STATE = "module.pt"


class GlobalBatches(Sampler[list[int]]):
    """Shuffled full batches of row numbers; the last rows of an epoch that do not fill one wait for the next epoch."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.rank, self.processes = world()
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        step = self.batch_size * self.processes
        for start in range(self.rank * self.batch_size, len(self) * step, step):
            yield order[start : start + self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.epoch = epoch


class Collator:
    """Rows to tensors: token ids of queries and documents, ids of the texts, teacher scores."""

    def __init__(
        self, rows: Rows, module: SparseHead, *, negatives: int, max_length: int, query_max_length: int
    ) -> None:
        self.rows, self.module, self.negatives = rows, module, negatives
        self.max_length, self.query_max_length = max_length, query_max_length

    def __call__(self, batch: list[Row]) -> dict[str, Any]:
        """``query`` and ``document`` features, ``positives`` (B, P), ``document_ids`` (D,), ``scores`` (B, 1 + n)."""
        documents = [text for row in batch for text in row.documents[: 1 + self.negatives]]
        known = [sorted(self.rows.positives(row.query) | {text_id(row.documents[0])}) for row in batch]
        width = max(map(len, known))
        result: dict[str, Any] = {
            "query": self.module.tokenise([row.query for row in batch], self.query_max_length, queries=True),
            "document": self.module.tokenise(documents, self.max_length),
            "positives": torch.tensor([ids + [-1] * (width - len(ids)) for ids in known]),
            "document_ids": torch.tensor([text_id(text) for text in documents]),
        }
        if all(row.scores is not None for row in batch):
            result["scores"] = torch.tensor([row.scores[: 1 + self.negatives] for row in batch])
        return result


class Encoder(SparseEncoder):
    """A SparseEncoder that zeroes gradients in place: fresh (V, H) buffers cost page faults at every step."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zero the gradients, and keep their buffers where the activations are kept, too."""
        super().zero_grad(set_to_none=self[0].kept != "all")


class Trainer(SparseEncoderTrainer):
    """The loop; see :func:`~pyterrier_rescale.train`."""

    def __init__(
        self, model: Encoder, config: TrainConfig, rows: Rows, collator: Collator, folder: str,
        callbacks: list[TrainerCallback],
    ) -> None:  # fmt: skip
        from datasets import Dataset

        self.config, self.rows = config, rows
        self.module: SparseHead = model[0]
        objective = Objective(model, config, self.module.get_embedding_dimension())
        super().__init__(
            model=model,
            args=training_arguments(config, folder),
            # the base class insists on a Dataset; batches come from get_train_dataloader
            train_dataset=Dataset.from_dict({"row": [0]}),
            loss=objective,
            data_collator=collator,
            callbacks=callbacks,
        )
        self.objective = objective
        self.remove_callback(PrinterCallback)
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ == "_OptimizerZeroGradCallback":  # our objective owns no parameters
                self.remove_callback(callback)
        self.args._n_gpu = min(1, self.args.n_gpu)  # several GPUs: torchrun, not DataParallel

    def get_train_dataloader(self) -> DataLoader:
        """Batches in the order of the seed; each process draws its own part."""
        batches = GlobalBatches(len(self.rows), self.config.batch_size, self.config.seed)
        loader = DataLoader(self.rows, batch_sampler=batches, collate_fn=self.data_collator)
        loader.set_epoch = batches.set_epoch  # which the loop calls where there is one
        return loader

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows of the training data."""
        return len(self.rows)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """The objective of a micro-batch."""
        return self.objective(model, inputs, self.state.global_step)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; only matrices decay; a learned k, static query weights and the head's bias have rates of their own."""
        if self.optimizer is None:
            rates = {"log_k": self.config.scale_learning_rate, "query_weights": self.config.static_learning_rate}
            bias = self.module.head.bias
            decayed, plain, own = [], [], []
            for name, parameter in self.model.named_parameters():
                rate = rates.get(name.rpartition(".")[2])
                if parameter is bias:
                    rate = self.config.bias_learning_rate
                if rate is not None:
                    own.append({"params": [parameter], "weight_decay": 0.0, "lr": rate})
                elif parameter.requires_grad:
                    (decayed if parameter.dim() > 1 else plain).append(parameter)
            groups = [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
                *own,
            ]
            self.optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        objective = self.objective
        state = {
            "module": self.module.state_dict(),
            "query_regularizer": objective.query_regularizer.state_dict(),
            "document_regularizer": objective.document_regularizer.state_dict(),
        }
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / _STATE)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        state = torch.load(Path(checkpoint_path) / _STATE, map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["module"])
        broken = not_finite(self.module)
        if broken:
            raise ValueError(
                f"{checkpoint_path!r} holds weights that are not finite ({broken}), so nothing can be resumed: "
                "overwrite=True starts anew"
            )
        self.objective.query_regularizer.load_state_dict(state["query_regularizer"])
        self.objective.document_regularizer.load_state_dict(state["document_regularizer"])

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        # the bookkeeping callback has clipped and noted the norm; another pass over all gradients is not needed
        return grad_norm

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No statistics over the data: the card is ours."""


def training_arguments(config: TrainConfig, folder: str) -> SparseEncoderTrainingArguments:
    """The base trainer's arguments for a configuration; logging, clipping and saving are left to callbacks."""
    steps = config.max_steps if config.max_steps is not None else -1
    return SparseEncoderTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=0.1 if config.warmup_steps is None else config.warmup_steps,
        max_grad_norm=0.0,
        bf16=config.bf16,
        seed=config.seed,
        data_seed=config.seed,
        logging_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        report_to=config.report_to or "none",
        disable_tqdm=True,
        use_cpu=on_cpu(config.device),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
