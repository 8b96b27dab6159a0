"""A tiny random llama with a byte-level vocabulary of its own, and a dataset for it: made in a second, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilothouse.core.messages import Message, Row
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Tune
from pilothouse.core.records import Asset
from pilothouse.store.rows import encode
from pilothouse.store.store import Store

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are tiny.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "Answer with a colour."
_WORDS = (
    "sky blue",
    "grass green",
    "snow white",
    "coal black",
    "rose red",
    "sun yellow",
    "flight 42 at 07:15",
    "a b c",
)


def rows(n: int = 32, prefix: str = "r") -> list[Row]:
    """Rows with a rule that can be learnt: the second word of a pair."""
    found = []
    for i in range(n):
        thing, _, colour = _WORDS[i % 6].partition(" ")
        question = f"What colour is {thing}, number {i}?"
        found.append(Row(f"{prefix}{i}", (Message("user", question),), f'{{"colour":"{colour}"}}'))
    return found


def save(folder: Path, **config: Any) -> Path:
    """The model in Hugging Face layout."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*_WORDS, *(r.question for r in rows()), *(r.answer for r in rows()), SYSTEM, "system user assistant"]
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **config}))
    model.save_pretrained(folder)
    return folder


def weights(store: Store, folder: Path) -> Asset:
    """The saved model as an asset."""
    return store.add_asset("model", "tiny", {p.name: p for p in sorted(folder.iterdir())}, licence="MIT")


def dataset(store: Store) -> Asset:
    """Train and dev rows as an asset."""
    return store.add_asset("dataset", "colours", {"train.jsonl": encode(rows()), "dev.jsonl": encode(rows(8, "d"))})


def settings(**changes: Any) -> Tune:
    """Few, short steps."""
    plain: dict[str, Any] = {
        "options": {"r": 4, "alpha": 8, "dropout": 0.1},
        "steps": 8,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "checkpoint_every": 3,
        "eval_every": 4,
        "eval_rows": 8,
        "threads": 1,
    }
    return Tune(**{**plain, **changes})


class At(Silent):
    """Progress that does something when a training step is done."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action, self.count = step, action, 0
        self.labels: list[str] = []
        self.moves: list[int] = []

    def begin(self, label: str, total: int | None = None) -> None:
        """Remember the label; count from 0."""
        self.labels.append(label)
        self.count = 0

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Act when the step is reached."""
        self.count += n
        if self.labels[-1] == "training":
            self.moves.append(n)
            if self.count == self.step and n:
                self.action()
