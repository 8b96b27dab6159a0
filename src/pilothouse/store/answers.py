"""Ask an endpoint many questions and keep every answer as it comes, so that an interrupted stage goes on where it was.

A request that failed is a third state: it has an error and no text, is never scored as an answer, and is asked once
more at the end of the same call and again whenever the stage is run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from pilothouse.core import client
from pilothouse.core.client import Completion, Job
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress
from pilothouse.core.records import Endpoint
from pilothouse.store.journal import Journal


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an endpoint said to one question. error: '' when it answered. guard: who blocked it, '' when nobody did."""

    key: str
    text: str
    error: str = ""
    finish_reason: str = ""
    guard: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def cut(self) -> bool:
        """It reached the token limit."""
        return self.finish_reason == "length"


def ask(
    endpoint: Endpoint,
    jobs: Mapping[str, Job],
    journal: Path,
    *,
    concurrency: int,
    progress: Progress,
) -> dict[str, Answer]:
    """The answer to every job, by its key; those in the journal are not asked again unless they had failed.

    Raises UserError when not a single request gets an answer: then the endpoint is at fault, not the model.
    """
    with Journal(journal, Answer) as kept:
        answers = _newest(kept.kept, jobs)
        progress.advance(sum(not answer.error for answer in answers.values()))
        for attempt in (1, 2):
            todo = [key for key in jobs if key not in answers or answers[key].error]
            _ask_once(endpoint, jobs, todo, kept, concurrency, progress if attempt == 1 else None)
            answers = _newest(kept.kept, jobs)
            if todo and all(answer.error for answer in answers.values()):
                first = next(iter(answers.values())).error
                raise UserError(
                    f"none of {len(answers)} requests was answered; the first failed with: {first}",
                    where=f"{endpoint.url} ({endpoint.model})",
                    fix="See that the endpoint is up, then give the same command again.",
                )
    return answers


def guard_of(completion: Completion) -> str:
    """Which guard blocked this completion ('' when none did): our gateway names it, others only say content_filter."""
    blocked = completion.finish_reason == "content_filter" or (
        completion.status >= 400 and "content_filter" in completion.error
    )
    return (str(completion.decision.get("guard") or "") or "a guard") if blocked else ""


def _ask_once(
    endpoint: Endpoint,
    jobs: Mapping[str, Job],
    todo: Sequence[str],
    kept: Journal[Answer],
    concurrency: int,
    progress: Progress | None,
) -> None:
    if not todo:
        return

    def on_done(index: int, completion: Completion) -> None:
        guard = guard_of(completion)
        kept.append(
            Answer(
                key=todo[index],
                text=completion.text,
                error="" if guard else completion.error,
                finish_reason=completion.finish_reason,
                guard=guard,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
        )
        if progress is not None:
            progress.advance(1)

    work = [jobs[key] for key in todo]
    client.run(client.chat_many(endpoint, work, concurrency=concurrency, on_done=on_done))


def _newest(kept: Iterable[Answer], jobs: Mapping[str, Job]) -> dict[str, Answer]:
    """The last answer to each job, in the order of the jobs."""
    last = {answer.key: answer for answer in kept}
    return {key: last[key] for key in jobs if key in last}
