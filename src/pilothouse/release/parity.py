"""Does the served model answer as the trained one? The same prompts through both; answers and probabilities compared.

Text alone proves little: greedy text flips at near-ties across precisions. So the served answer's own tokens are forced
through the trained model, and the log-probabilities of those tokens are compared one by one.

The trained model's greedy answer comes from the same pass: where its likeliest token equals the served one at every
position, its greedy answer is the served answer (by induction); from the first other token on it is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core import client, digest
from pilothouse.core.client import Completion, Job
from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.core.messages import Row, with_system
from pilothouse.core.project.schema import Parity
from pilothouse.core.records import Asset, Endpoint, Outcome
from pilothouse.release.parity_report import Compared, report
from pilothouse.store.runs import Context
from pilothouse.tune.libraries import ready
from pilothouse.tune.rows import prompt_ids
from pilothouse.tune.run import load_model, load_tokenizer


class Served(msgspec.Struct, frozen=True):
    """What the endpoint answered: text, its tokens and their log-probabilities; how many tokens it read."""

    row: str
    text: str
    tokens: tuple[str, ...]
    ids: tuple[int | None, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int | None
    finish: str


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained model: base weights and adapter in fp32."""

    model: Any
    tokenizer: Any
    stops: frozenset[int]


def run(
    ctx: Context,
    settings: Parity,
    weights: Asset,
    adapter: Asset,
    rows: Sequence[Row],
    system_prompt: str,
    endpoint: Endpoint,
) -> Outcome:
    """Compare on the first `prompts` rows by digest order; finished prompts are kept in the run's folder."""
    ready("comparing with the trained model", "peft")
    import torch

    chosen = sorted(rows, key=lambda row: digest.of_json([row.id, row.messages]))[: settings.prompts]
    if not chosen:
        raise UserError("there are no rows to compare on", where="parity", fix="Check data.dev in pilothouse.yaml.")
    served = _ask(ctx, settings, chosen, system_prompt, endpoint)
    path = ctx.folder / "parity.jsonl"
    done = {item.row: item for item in _lines(path, Compared)}
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        if any(row.id not in done for row in chosen):
            ctx.progress.begin("loading the trained model")
            trained = load(ctx.store.folder(weights), ctx.store.folder(adapter))
            ctx.progress.begin("comparing", len(chosen))
            for row in chosen:
                if row.id not in done:
                    done[row.id] = compare(trained, row, system_prompt, served[row.id], settings.max_tokens)
                    _append(path, done[row.id])
                ctx.progress.advance(1, gap=round(done[row.id].worst, 3))
    finally:
        torch.set_num_threads(before)
        ctx.progress.end()
    return Outcome(report(settings, [done[row.id] for row in chosen]))


def _ask(ctx: Context, settings: Parity, rows: Sequence[Row], system: str, endpoint: Endpoint) -> dict[str, Served]:
    """Greedy answers of the endpoint, with log-probabilities; those of an earlier attempt are kept."""
    path = ctx.folder / "served.jsonl"
    served = {item.row: item for item in _lines(path, Served)}
    open_rows = [row for row in rows if row.id not in served]
    body = {"temperature": 0.0, "logprobs": True, "top_logprobs": 5}
    jobs = [Job(with_system(row.messages, system), settings.max_tokens, body) for row in open_rows]
    errors: list[str] = []

    def keep(i: int, answer: Completion) -> None:
        ctx.progress.advance(1)
        if answer.error:
            errors.append(answer.error)
            ctx.log.error("row %s: %s", open_rows[i].id, answer.error)
            return
        item = Served(
            open_rows[i].id,
            answer.text,
            tuple(t.token for t in answer.tokens),
            tuple(t.id for t in answer.tokens),
            tuple(t.logprob for t in answer.tokens),
            answer.prompt_tokens,
            answer.finish_reason,
        )
        served[item.row] = item
        _append(path, item)

    if jobs:
        ctx.progress.begin("asking the served model", len(jobs))
        client.run(client.chat_many(endpoint, jobs, concurrency=2, on_done=keep))
    if errors:
        raise UserError(
            f"{len(errors)} of {len(rows)} prompts got no answer ({errors[0]})",
            where="parity",
            fix="Run it again: answered prompts are kept.",
        )
    if not any(item.logprobs for item in served.values()):
        raise UserError(
            "the endpoint gives no log-probabilities, so parity cannot be shown",
            where="parity",
            fix="Serve with an engine that has them (llamacpp, vllm).",
        )
    return served


def load(weights: Path, adapter: Path) -> Trained:
    """The trained model from its folders (Hugging Face layout, PEFT)."""
    from peft import PeftModel

    model, tokenizer = load_model(weights), load_tokenizer(weights)
    ends = model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    return Trained(tuned, tokenizer, frozenset(s for s in stops if s is not None))


def compare(trained: Trained, row: Row, system: str, served: Served, max_tokens: int) -> Compared:
    """Force the served tokens through the trained model and compare."""
    import torch

    prompt = prompt_ids(trained.tokenizer, row.messages, system)
    answer, spoken = _tokens(trained.tokenizer, served)
    with torch.inference_mode():
        logits = trained.model(
            input_ids=torch.tensor([prompt + answer]), use_cache=False, logits_to_keep=len(answer) + 1
        ).logits[0]
        known = torch.log_softmax(logits.float(), -1)
    pairs = zip(range(len(answer)), answer, spoken, strict=True)
    gaps = [abs(float(known[i, token]) - logprob) for i, token, logprob in pairs if logprob is not None]
    best = [int(token) for token in logits.argmax(-1)]
    own = _greedy(trained, prompt, answer, best, max_tokens)
    text = str(trained.tokenizer.decode(own, skip_special_tokens=True))
    return Compared(
        row.id,
        row.question,
        served.text,
        text,
        same_task_answer(text, served.text),
        text.strip() == served.text.strip(),
        served.prompt_tokens is None or served.prompt_tokens == len(prompt),
        tuple(gaps),
    )


def _greedy(trained: Trained, prompt: list[int], answer: list[int], best: list[int], max_tokens: int) -> list[int]:
    """The trained model's greedy answer, given its likeliest token at each position of the served answer."""
    import torch

    same = next((i for i, token in enumerate(answer) if best[i] != token), len(answer))
    own = answer[:same]
    if own and own[-1] in trained.stops:
        return own
    if len(own) < max_tokens:
        own = [*own, best[same]]
    if own[-1] in trained.stops or len(own) >= max_tokens:
        return own
    start = torch.tensor([prompt + own])
    with torch.inference_mode():
        whole = trained.model.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=max_tokens - len(own),
            do_sample=False,
            use_cache=True,
            pad_token_id=trained.tokenizer.pad_token_id or trained.tokenizer.eos_token_id,
        )[0]
    return [int(token) for token in whole[len(prompt) :]]


def _tokens(tokenizer: Any, served: Served) -> tuple[list[int], list[float | None]]:
    """Token ids of the served answer, each with its log-probability where the engine gave one.

    Engines that tell no ids: the text is tokenised again, and must give as many tokens. llama.cpp tells ids, but holds
    back tokens that end inside a character and drops them from the list; the entry that completes the character shows
    its whole text, from which the dropped tokens are found again. Where that fails the comparison ends before it.
    """
    if any(token is None for token in served.ids):
        found: list[int] = tokenizer("".join(served.tokens), add_special_tokens=False)["input_ids"]
        if len(found) != len(served.tokens):
            raise UserError(
                f"the engine gives no token ids, and its {len(served.tokens)} tokens read as {len(found)} here",
                where=f"row {served.row}",
                fix="Serve with an engine that gives token ids (llamacpp).",
            )
        return found, list(served.logprobs)
    ids: list[int] = []
    known: list[float | None] = []
    for text, token, logprob in zip(served.tokens, served.ids, served.logprobs, strict=True):
        assert token is not None
        if text and str(tokenizer.decode([token])).strip() != text.strip():
            parts: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            if "\ufffd" in text or parts[-1:] != [token]:
                break
            ids += parts[:-1]
            known += [None] * (len(parts) - 1)
        ids.append(token)
        known.append(logprob)
    return ids, known


def same_task_answer(one: str, other: str) -> bool:
    """Equal as JSON where both are JSON (spaces and key order do not matter), else equal text."""
    try:
        return bool(msgspec.json.decode(one.strip()) == msgspec.json.decode(other.strip()))
    except msgspec.DecodeError:
        return one.strip() == other.strip()


def _lines(path: Path, kind: type[Any]) -> list[Any]:
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError:
            continue  # torn by a kill in mid-write; that prompt is done again
    return found


def _append(path: Path, item: Any) -> None:
    with path.open("ab") as f:
        f.write(msgspec.json.encode(item) + b"\n")
