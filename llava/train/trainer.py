"""transformers' Trainer with what LLaVA adds: sampling by modality, learning rates by part, checkpoints of what trains.

Checkpoints are atomic: `checkpoint-N` is written aside and renamed when every process is done, so it is complete or
not there. They hold what trains plus optimizer, scheduler and random states: every stage resumes, the projector's too.

The loss of an optimizer step is the mean over all its supervised tokens, however many processes and accumulation steps
share them (transformers 5); the public code, on transformers 4, took the mean of each process's own mean.
"""

import functools
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from llava.data.sampler import ModalityLengthSampler
from llava.model.checkpoint import NON_LORA_FILE, PROJECTOR_FILE, load_projector, read_file
from llava.train.interrupt import any_of_processes, any_process, outlive_signal
from llava.train.meter import Meter
from llava.train.muon import MuonAdamW
from llava.train.save import STAGING, STATE_FILE, write_trained
from llava.train.stages import LANGUAGE_MODEL, PROJECTOR, TOWER, Stage, part_of

logger = logging.getLogger(__name__)


class LLaVATrainer(Trainer):
    """Trains one stage.

    Args:
        stage: what trains; decides what a checkpoint holds.
        kwargs: as for transformers' Trainer.
    """

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        self.stage = stage
        self._write_to: str | None = None  # where _save_checkpoint writes instead of output_dir
        self._meter = Meter()
        super().__init__(*args, **kwargs)

    @property
    def _saves_part(self) -> bool:
        """Whether checkpoints hold the trained part only."""
        return self.stage.projector_only or self.stage.lora

    # -- order of the data, optimizer

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        if not (self.args.group_by_modality_length or by_length):
            return super()._get_train_sampler(train_dataset)
        return ModalityLengthSampler(
            dataset.lengths,
            dataset.has_image if self.args.group_by_modality_length else [True] * len(dataset),
            batch_size=self.args.train_batch_size,
            num_chunks=self.args.world_size * self.args.gradient_accumulation_steps,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps the one that starts workers
        inner.worker_init_fn = functools.partial(outlive_signal, inner.worker_init_fn)
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.args.muon_learning_rate is not None:
            self.optimizer = self._muon(self.model if model is None else model)
        rates = {PROJECTOR: self.args.mm_projector_lr, TOWER: self.args.mm_vision_tower_lr}
        rates = {part: rate for part, rate in rates.items() if rate is not None}
        if self.optimizer is not None or not rates:
            return super().create_optimizer(model)
        trained: Any = self.model if model is None else model
        decaying = set(self.get_decay_parameter_names(trained))
        groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((rates.get(part_of(name)), name in decaying), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
        self.optimizer = optimizer_class(
            [
                {"params": parameters, "weight_decay": self.args.weight_decay if decays else 0.0}
                | ({} if rate is None else {"lr": rate})
                for (rate, decays), parameters in groups.items()
            ],
            **options,
        )
        return self.optimizer

    def _muon(self, model: Any) -> MuonAdamW:
        """Muon for the matrices of the decoder blocks; embeddings, head, norms and projector stay with AdamW."""
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                in_block = part_of(name) == LANGUAGE_MODEL and ".layers." in name and parameter.ndim == 2
                (matrices if in_block else others).append(parameter)
        if not matrices:
            raise ValueError(
                f"--muon_learning_rate is for the decoder blocks, and stage {self.stage.name} does not train them; "
                "leave it out"
            )
        _, adam = self.get_optimizer_cls_and_kwargs(self.args, model)
        return MuonAdamW(
            matrices,
            others,
            self.args.muon_learning_rate,
            self.args.weight_decay,
            lr=adam["lr"],
            betas=adam["betas"],
            eps=adam["eps"],
        )

    # -- one step

    def _run_epoch(self, **kwargs: Any) -> None:
        """Nothing where the checkpoint resumed from is of the last step: transformers would train one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if num_items_in_batch is not None and int(num_items_in_batch) == 0:
            raise ValueError(
                f"step {self.state.global_step + 1}: no row of the batch has anything to learn; all labels are masked. "
                "Check that --version fits the data and that answers lie within --model_max_length"
            )
        self._meter.add(inputs, self._tokens_per_tile(), self.state.global_step)
        names = inputs.pop("names", [])
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"loss is {loss.item()} at step {self.state.global_step + 1}; {self._last_good()}. "
                "Lower --learning_rate, train in bf16 rather than fp16, or look at the data of that step on this "
                f"process: {'; '.join(names)}"
            )
        return loss

    def _last_good(self) -> str:
        """For messages: the checkpoint a stopped run goes on from."""
        last = last_checkpoint(self.args.output_dir)
        return f"last good checkpoint: {last}" if last else "no checkpoint was written yet"

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """In training, logits at supervised positions only; label smoothing wants them all."""
        if model.training and self.label_smoother is None:
            inputs = {**inputs, "loss_only": True}
            if self.args.pack_sequences:
                inputs["pack_length"] = self.args.model_max_length
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _tokens_per_tile(self) -> int:
        base = self.model.get_base_model() if self.stage.lora else self.model
        tower = base.get_vision_tower()
        if tower is None:
            return 0
        if tower.compressor is not None:
            return int(tower.compressor.tokens_per_tile(tower.num_patches))
        return int(tower.num_patches) + (tower.select_feature == "cls_patch")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self.share_masked_rows()
            logs |= self._meter.read(
                self.args.world_size, self.state.global_step, self.state.max_steps, self.args.device
            )
        super().log(logs, start_time)

    def share_masked_rows(self) -> None:
        """Processes tell one another which rows have no labels: the cap is the run's. Every process must call it."""
        masked = self.train_dataset.masked
        masked.include(any_of_processes(masked.flags, self.args.device))

    # -- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return self._write_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(output / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._require_finite()
        self.share_masked_rows()
        self._write_to = str(output / STAGING)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self.train_dataset.masked.save(output / STAGING / name)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise  # no matter of the disk: a collective that failed, memory that ran out
            raise ValueError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {output}: {error}; "
                f"{self._last_good()}. Make room there (or mend the disk) and run the same command again"
            ) from error
        finally:
            self._write_to = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(output / name, ignore_errors=True)
            os.replace(output / STAGING / name, output / name)
            (output / STAGING).rmdir()
            rotate_checkpoints(output_dir=str(output), save_total_limit=self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _require_finite(self) -> None:
        """A step may blow up the weights after its own loss was fine: such a checkpoint would be worse than none."""
        trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        # ZeRO-3 keeps this process's share in `ds_tensor`; what one process sees, all must stop for.
        bad = [name for name, value in trained if not torch.isfinite(getattr(value, "ds_tensor", value)).all()]
        if any_process(bool(bad), self.args.device):
            raise ValueError(
                f"{bad[0] if bad else 'a weight of another process'} is not finite after step "
                f"{self.state.global_step}; no checkpoint was written of it, {self._last_good()}. "
                "Lower --learning_rate or --max_grad_norm"
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self._saves_part:
            write_trained(self, self.stage, Path(output_dir or self.args.output_dir))
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not (self._saves_part and self.is_deepspeed_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._saves_part:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        target: Any = self.model if model is None else model
        if self.stage.lora:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            state = read_file(Path(resume_from_checkpoint) / NON_LORA_FILE)
        else:
            state = load_projector(Path(resume_from_checkpoint) / PROJECTOR_FILE)
        unknown = target.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{resume_from_checkpoint} does not belong to this model: unknown weights {unknown[:3]}")

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if not (self._saves_part and self.is_deepspeed_enabled and resume_from_checkpoint):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        # transformers would insist on finding the frozen weights in the checkpoint as well.
        loaded, _ = self.model_wrapped.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
        if loaded is None:
            raise ValueError(f"DeepSpeed found nothing to resume in {resume_from_checkpoint}")
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete `checkpoint-N` in a folder; incomplete ones are passed over with a warning."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        missing = missing_parts(path)
        if not missing:
            return path
        logger.warning("%s is incomplete (no %s): not resumed from", path, ", no ".join(missing))
    return None


def missing_parts(checkpoint: Path) -> list[str]:
    """What a checkpoint folder lacks to be resumed from."""
    parts = {
        "trainer state": [STATE_FILE],
        "weights": [PROJECTOR_FILE, "*.safetensors", "pytorch_model*.bin"],
        "optimizer state": ["optimizer.pt", "latest"],
        "random state": ["rng_state*.pth"],
    }
    return [part for part, patterns in parts.items() if not any(any(checkpoint.glob(pattern)) for pattern in patterns)]
