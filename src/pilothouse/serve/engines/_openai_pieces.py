"""What an engine says for one choice, piece by piece, and how pieces of several choices become OpenAI's objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One choice to generate. prompt: a text, or a chat's messages. body: the request's other fields, as they came."""

    chat: bool
    prompt: Any
    stream: bool
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one choice. more: further fields of a chat's delta (tool_calls, …). logprobs: in OpenAI's form.

    finish: stop, length, tool_calls, … in the last piece. Completion tokens add up over the pieces.
    """

    text: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Mapping[str, Any] | None = None
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class EngineError(Exception):
    """An answer that is an error: the engine refused (400, 404) or failed (500, 503)."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


Generate = Callable[[Ask], AsyncGenerator[Piece, None]]


class Whole:
    """One choice put together from its pieces."""

    def __init__(self, index: int, chat: bool) -> None:
        self._index, self._chat = index, chat
        self._text: list[str] = []
        self._more: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._finish = ""

    def add(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._finish = piece.finish or self._finish
        for name, value in (piece.logprobs or {}).items():
            self._logprobs.setdefault(name, []).extend(value or [])
        for name, value in piece.more.items():
            if name == "tool_calls":
                for call in value:
                    self._call(call)
            elif isinstance(value, str):
                self._more[name] = self._more.get(name, "") + value
            elif value is not None:
                self._more[name] = value

    def _call(self, delta: Mapping[str, Any]) -> None:
        """Id, type and name come once; the arguments are a text in parts."""
        call = self._calls.setdefault(
            int(delta.get("index", 0)), {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = delta.get("id") or call["id"]
        function = delta.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += function.get("arguments") or ""

    def made(self) -> dict[str, Any]:
        text = "".join(self._text)
        if not self._chat:
            return choice(self._index, {"text": text}, self._logprobs or None, self._finish or "stop")
        calls = [self._calls[i] for i in sorted(self._calls)]
        message = {"role": "assistant", "content": text if text or not calls else None, **self._more}
        if calls:
            message["tool_calls"] = calls
        return choice(self._index, {"message": message}, self._logprobs or None, self._finish or "stop")


class Usage:
    """Tokens of all choices; a prompt counts once, however many answers it gets."""

    def __init__(self, n: int, choices: int) -> None:
        self._n, self._prompt, self._completion = n, [0] * choices, 0

    def add(self, index: int, piece: Piece) -> None:
        self._prompt[index] = max(self._prompt[index], piece.prompt_tokens)
        self._completion += piece.completion_tokens

    def made(self) -> dict[str, int]:
        prompt = sum(self._prompt[:: self._n])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._completion,
            "total_tokens": prompt + self._completion,
        }


async def merged(sources: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of all choices as they come. Leaving it, for whatever reason, ends them all."""
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def drain(i: int, source: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(source):
                async for piece in source:
                    queue.put_nowait((i, piece))
            queue.put_nowait((i, None))
        except asyncio.CancelledError:  # by us (nobody reads on), or by the engine's own client
            queue.put_nowait((i, EngineError(503, "the engine cancelled its answer")))
            raise
        except Exception as e:
            queue.put_nowait((i, e))

    tasks = [asyncio.ensure_future(drain(i, source)) for i, source in enumerate(sources)]
    try:
        open_ones = len(tasks)
        while open_ones:
            i, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_ones -= 1
            else:
                yield i, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def choice(index: int, said: Mapping[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}
