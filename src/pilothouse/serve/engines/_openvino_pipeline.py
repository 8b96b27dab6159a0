"""OpenVINO GenAI's continuous batching behind `generate(ask)`: one thread steps, every request has a queue."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.serve.engines._openai_pieces import Ask, EngineError, Piece
from pilothouse.serve.engines._openai_text import Detokenizer, StopStrings

_HARMLESS = {"user", "metadata", "store", "adapter"}
_NUMBERS = {
    "top_p": "top_p",
    "top_k": "top_k",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
}
_KNOWN = {"temperature", "seed", "stop", "max_tokens", "max_completion_tokens", "ignore_eos"}


@dataclass(eq=False)
class _Job:
    """One request on its way through the pipeline. Outputs: tokens (the last with a finish reason), or an error."""

    ids: Any
    config: Any
    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[tuple[list[int], str] | EngineError] = field(default_factory=asyncio.Queue)
    handle: Any = None
    left: bool = False

    def tell(self, output: tuple[list[int], str] | EngineError) -> None:
        """From the stepping thread."""
        self.loop.call_soon_threadsafe(self.outputs.put_nowait, output)


class Pipeline:
    """The model, and the thread that owns it. broken: what it died of."""

    def __init__(self, genai: Any, pipeline: Any, context: int, streams: int) -> None:
        self._genai, self._pipeline, self._context, self._streams = genai, pipeline, context, streams
        self._tokenizer = pipeline.get_tokenizer()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._new: list[_Job] = []
        self._active: list[_Job] = []
        self._closed = False
        self.broken = ""
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)
        self._thread.start()

    async def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """One choice. Leaving it frees its place in the batch with the next step."""
        ids, n = self._encode(ask)
        config, stops = self._config(ask.body, self._context - n)
        job = _Job(ids, config, asyncio.get_running_loop())
        text, stop = Detokenizer(self._tokenizer.decode), StopStrings(stops)
        self._change(job)
        try:
            while True:
                output = await job.outputs.get()
                if isinstance(output, EngineError):
                    raise output
                tokens, finish = output
                last = bool(finish)
                shown = stop.feed(text.feed(tokens, last=last), last=last)
                finish = "stop" if stop.stopped else finish
                yield Piece(shown, finish=finish, prompt_tokens=n, completion_tokens=len(tokens))
                if finish:
                    return
        finally:
            job.left = True
            self._change()

    def figures(self) -> bytes:
        """For Prometheus. The pipeline runs as many requests as it has streams; the rest wait in it."""
        now = len(self._active) + len(self._new)
        values = {
            "openvino_requests_running": min(now, self._streams),
            "openvino_requests_waiting": max(0, now - self._streams),
            "openvino_cache_usage_ratio": self._pipeline.get_metrics().cache_usage / 100,
        }
        return "".join(f"# TYPE {name} gauge\n{name} {value:g}\n" for name, value in values.items()).encode()

    def close(self) -> None:
        """End the thread after the step under way."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(10)

    def _encode(self, ask: Ask) -> tuple[Any, int]:
        try:
            prompt = ask.prompt
            if ask.chat:
                prompt = self._tokenizer.apply_chat_template(ask.prompt, add_generation_prompt=True)
            ids = self._tokenizer.encode(prompt, add_special_tokens=False).input_ids
        except (RuntimeError, TypeError, ValueError) as e:
            raise EngineError(400, f"the chat template cannot take these messages ({_short(e)})") from None
        n = int(ids.shape[1])
        if n >= self._context:
            raise EngineError(400, f"the prompt ({n} tokens) exceeds the context of {self._context} tokens")
        return ids, n

    def _config(self, body: Mapping[str, Any], room: int) -> tuple[Any, list[str]]:
        """OpenAI's fields in OpenVINO's terms; what it does not have is refused, never dropped."""
        given = {name: value for name, value in body.items() if value is not None and name not in _HARMLESS}
        # No schemas either, though the library has them: one that it cannot follow is found in the middle of a step and
        # fails every other request with it.
        if given.get("response_format") == {"type": "text"}:
            del given["response_format"]
        unknown = sorted(
            name for name in given if name not in _NUMBERS and name not in _KNOWN and given[name] is not False
        )
        if unknown:
            raise EngineError(400, f"engine openvino has no {', '.join(unknown)}")
        stops = given.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        wanted = given.get("max_completion_tokens", given.get("max_tokens", room))
        temperature = given.get("temperature", 1.0)
        try:
            more = {theirs: given[ours] for ours, theirs in _NUMBERS.items() if ours in given}
            if temperature != 0:  # without a seed of its own every answer would be the same
                more |= {"do_sample": True, "temperature": temperature}
                more |= {"rng_seed": given.get("seed", secrets.randbits(31))}
            limit = max(1, min(int(wanted), room))
            config = self._genai.GenerationConfig(max_new_tokens=limit, **({"do_sample": False} | more))
            config.ignore_eos = bool(given.get("ignore_eos"))
            config.apply_chat_template = False
            config.set_eos_token_id(self._tokenizer.get_eos_token_id())
            config.validate()
        except (RuntimeError, TypeError, ValueError) as e:
            raise EngineError(400, f"these parameters are not possible ({_short(e)})") from None
        return config, [str(stop) for stop in stops]

    def _change(self, job: _Job | None = None) -> None:
        """Something for the stepping thread to do."""
        if self.broken:
            raise EngineError(503, f"the engine has failed: {self.broken}")
        with self._changed:
            if job is not None:
                self._new.append(job)
            self._changed.notify()

    # The stepping thread; nobody else touches the pipeline.

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._new and not self._active and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    new, self._new = self._new, []
                for job in new:
                    job.handle = self._pipeline.add_request(next(self._numbers), job.ids, job.config)
                    self._active.append(job)
                self._step()
        except Exception as e:
            self.broken = _short(e)
            for job in [*self._active, *self._new]:
                job.tell(EngineError(500, f"the engine has failed: {self.broken}"))

    def _step(self) -> None:
        for job in self._active:
            if job.left:
                job.handle.cancel()
        self._pipeline.step()
        self._active = [job for job in self._active if not self._read(job)]

    def _read(self, job: _Job) -> bool:
        """Hand on what there is; is it over?"""
        status, names = job.handle.get_status(), self._genai.GenerationStatus
        tokens, finish = list[int](), ""
        while job.handle.can_read():
            for output in job.handle.read().values():
                tokens += output.generated_ids
                finish = output.finish_reason.name.lower() if output.finish_reason.value else finish
        if status == names.RUNNING:
            if tokens:
                job.tell((tokens, ""))
            return False
        if status == names.FINISHED:
            job.tell((tokens, finish or "stop"))
        elif not job.left:
            job.tell(EngineError(503, f"the engine gave the request up ({status.name.lower()}): its cache is full"))
        return True


def _short(e: Exception) -> str:
    """The last line: OpenVINO puts its source file's place before it."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return (lines[-1] if lines else type(e).__name__).rpartition(": ")[2][:300]
