"""The training loop: TRL's SFTTrainer with packed rows, whole checkpoints, a loss curve, and a clean stop on ctrl-C.

What is ours in it, and why: the loss (TRL's runs the output head over every position on a CPU), the checkpoint's mark
(transformers writes checkpoints in place, so a kill leaves half of one), dev losses by row (for an interval).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Tune
from pilothouse.tune.checkpoints import Curve, Step, seal
from pilothouse.tune.pack import losses, pack, row_losses
from pilothouse.tune.rows import Encoded

WINDOW = 5  # steps whose median loss tells a diverging run


def precision(device: str, *, bf16: bool) -> AbstractContextManager[Any]:
    """bf16 arithmetic where it pays, else fp32."""
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


def hold_in_bf16(model: Any) -> None:
    """Keep frozen linear weights in bf16, as autocast would round them in each step anyway: less memory, fewer copies.

    Norms, embeddings and the output head stay in fp32, and so does all that is trained.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head and not module.weight.requires_grad:
            module.weight.data = module.weight.data.bfloat16()


class RowTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer over encoded rows: the dataset holds only their numbers."""

    def __init__(self, model: Any, tokenizer: Any, settings: Tune, rows: Sequence[Encoded], **how: Any) -> None:
        self.rows, self.settings = rows, settings
        self.bf16: bool = how["bf16"]
        self.packed: bool = how["packed"]
        self.loss = self.began = 0.0
        self.tokens = 0
        self.optimizer: Any = None
        super().__init__(
            model=model,
            args=_arguments(settings, how["folder"], len(rows)),
            train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
            data_collator=lambda items: {"rows": torch.tensor([item["row"] for item in items])},
            processing_class=tokenizer,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, *_: Any, **__: Any) -> Any:
        """AdamW; with lora_plus_ratio, B matrices learn that many times faster (Hayou et al. 2024, LoRA+)."""
        if self.optimizer is None:
            rate, ratio = self.settings.learning_rate, self.settings.lora_plus_ratio
            if ratio is None:
                trained = [p for p in self.model.parameters() if p.requires_grad]
                self.optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
            else:
                from peft.optimizers import create_loraplus_optimizer

                self.optimizer = create_loraplus_optimizer(
                    model=self.model,
                    optimizer_cls=torch.optim.AdamW,
                    lr=rate,
                    loraplus_lr_ratio=ratio,
                    weight_decay=0.0,
                )
        return self.optimizer

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """Mean loss over the learnt tokens of the batch. A loss that is no number stops the run before any update."""
        self.began = time.monotonic()
        batch = [self.rows[int(i)] for i in inputs["rows"]]
        self.tokens = sum(len(row.ids) for row in batch)
        with precision(model.device.type, bf16=self.bf16):
            parts = [batch] if self.packed else [[row] for row in batch]
            loss = torch.cat([losses(model, pack(part, model.device)) for part in parts]).mean()
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            raise UserError(
                f"training diverged: the loss of step {self.state.global_step + 1} is {self.loss}",
                fix="Lower tune.learning_rate (or lora_plus_ratio) and run it again.",
            )
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the release card is ours."""


def _arguments(settings: Tune, folder: Path, rows: int) -> Any:
    return SFTConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        dataloader_drop_last=rows >= settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(5, settings.steps // 10),
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,  # precision() decides, per forward pass
        seed=settings.seed,
        data_seed=settings.seed,
        include_num_input_tokens_seen="no",
    )


class Watch(TrainerCallback):  # type: ignore[misc]
    """After each step: keep its loss, score the dev rows when due, tell the progress, notice divergence and ctrl-C."""

    def __init__(self, curve: Curve, dev: Sequence[Encoded], settings: Tune, advance: Callable[..., None]) -> None:
        self.curve, self.dev, self.settings, self.advance = curve, dev, settings, advance
        self.trainer: RowTrainer | None = None
        self.stop = False

    def score(self, step: int) -> None:
        """Losses of the dev rows by the model as it is now, once a step."""
        trainer = self.trainer
        assert trainer is not None
        if step in self.curve.dev or not self.dev:
            return
        model, size, found = trainer.model, self.settings.batch_size, []
        was_training = model.training
        model.eval()
        with precision(model.device.type, bf16=trainer.bf16):
            for i in range(0, len(self.dev), size):
                found += row_losses(model, self.dev[i : i + size], packed=trainer.packed)
        model.train(was_training)
        self.curve.add(Step(step, dev=tuple(found)))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step is done."""
        trainer, step = self.trainer, int(state.global_step)
        assert trainer is not None
        self.curve.add(Step(step, trainer.loss, trainer.tokens, time.monotonic() - trainer.began))
        self._check(step)
        figures: dict[str, float] = {"loss": round(trainer.loss, 3)}
        if step % self.settings.eval_every == 0 or step == self.settings.steps:
            self.score(step)
        if self.curve.dev:
            figures["dev"] = round(fmean(self.curve.dev[max(self.curve.dev)].dev), 3)
        self.advance(1, **figures)
        if self.stop:
            control.should_save = control.should_training_stop = True

    def _check(self, step: int) -> None:
        """A run whose median loss over WINDOW steps is twice that of the untrained model will not come back."""
        train = self.curve.train
        recent = [train[i].loss for i in range(step - WINDOW + 1, step + 1) if i in train]
        first, last = train[min(train)].loss or 0.0, median(loss or 0.0 for loss in recent)
        if len(recent) == WINDOW and last > 2 * first and last > 1.0:
            raise UserError(
                f"training diverged: the loss was {first:.2f} at first, {last:.2f} in the {WINDOW} steps up to {step}",
                fix="Lower tune.learning_rate (or lora_plus_ratio) and run it again.",
            )


@contextmanager
def stopping(watch: Watch) -> Iterator[None]:
    """ctrl-C ends training after the step in progress, with a checkpoint; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: Any) -> None:
        if watch.stop:
            raise KeyboardInterrupt
        watch.stop = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if watch.stop:
        raise KeyboardInterrupt
