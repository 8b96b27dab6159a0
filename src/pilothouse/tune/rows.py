"""What does the model see of a row, and which tokens does it learn? Chat rows to token ids, learnt from a position on.

The prompt is tokenised as an engine does it (template with the generation prompt, on its own), the answer behind it,
then the template's end-of-turn token, which is learnt too: so the model learns to stop. Nothing is masked by the
padding id, which equals the end-of-turn id in many models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message, Row, with_system


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as token ids. Tokens from `start` on are learnt; those before are only read."""

    id: str
    ids: tuple[int, ...]
    start: int

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return len(self.ids) - self.start


def prompt_text(tokenizer: Any, messages: tuple[Message, ...], system: str) -> str:
    """The prompt as the chat template renders it, up to where the assistant's answer begins."""
    chat = with_system(messages, system)
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def prompt_ids(tokenizer: Any, messages: tuple[Message, ...], system: str) -> list[int]:
    """The prompt's token ids. The template writes any beginning-of-text token itself, so none is added."""
    return list(tokenizer(prompt_text(tokenizer, messages, system), add_special_tokens=False)["input_ids"])


def end_of_turn(tokenizer: Any) -> list[int]:
    """Ids of what the chat template writes behind an answer, up to and with the first special token.

    Raises when there is none: a model trained on such a template would never learn to stop.
    """
    chat = [{"role": "user", "content": "a"}]
    before = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    answered = [*chat, {"role": "assistant", "content": "b"}]
    after = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not after.startswith(before + "b"):
        raise UserError(
            "the chat template writes an answer differently from the prompt that asks for it",
            where="chat template",
            fix="Pick a model whose template renders both alike.",
        )
    ids: list[int] = tokenizer(after[len(before) + 1 :], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    stop = next((i for i, token in enumerate(ids) if token in special), None)
    if stop is None:
        raise UserError("the chat template ends an answer with no special token", where="chat template")
    return ids[: stop + 1]


def encode(tokenizer: Any, rows: Sequence[Row], system: str, *, max_tokens: int) -> list[Encoded]:
    """All rows encoded. A row without an answer, or longer than max_tokens, is an error: never skipped, never cut."""
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template", fix="Pick an instruction-tuned model.")
    ending = end_of_turn(tokenizer)
    encoded = []
    for row in rows:
        prompt = prompt_ids(tokenizer, row.messages, system)
        answer: list[int] = tokenizer(row.answer, add_special_tokens=False)["input_ids"] if row.answer.strip() else []
        if not answer:
            raise UserError("the row has no answer to learn", where=f"row {row.id}", fix="Give it one, or remove it.")
        one = Encoded(row.id, (*prompt, *answer, *ending), len(prompt))
        if len(one.ids) > max_tokens:
            raise UserError(
                f"the row is {len(one.ids)} tokens long, more than tune.max_tokens {max_tokens}",
                where=f"row {row.id}",
                fix=f"Raise tune.max_tokens to {longest(tokenizer, rows, system, len(ending))}, or shorten the rows.",
            )
        encoded.append(one)
    return encoded


def longest(tokenizer: Any, rows: Sequence[Row], system: str, ending: int) -> int:
    """Tokens of the longest row."""
    return max(
        len(prompt_ids(tokenizer, row.messages, system))
        + len(tokenizer(row.answer, add_special_tokens=False)["input_ids"])
        + ending
        for row in rows
    )


def rendered(tokenizer: Any, row: Encoded) -> tuple[str, str]:
    """The row as text: what is read, and what is learnt, special tokens shown."""
    read, learnt = row.ids[: row.start], row.ids[row.start :]
    return str(tokenizer.decode(read)), str(tokenizer.decode(learnt))
