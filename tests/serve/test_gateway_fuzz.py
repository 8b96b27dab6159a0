"""Ten thousand requests that are wrong: no crash, no hang, no answer too many, nothing of one client at another.

Each request carries a mark of its own (a canary with a check sum, so that a mutated one counts for nothing). Many
clients ask at once; an answer, or a request that reaches the engine, holds one client's marks only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.scripted import Front, Wire, front, run, streamed, whole
from tests.serve.strict_http import Unfinished, answers, requests

CASES = 10_000
AT_ONCE = 100
_CALLERS_FAULT = {200, 400, 403, 404, 405, 413, 431, 501, 505}
_SEED = 3
MARK = "M" * 18
"""Stands for a request's canary, and is as long: what is told of lengths stays right."""
_MARK = MARK.encode()

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "desk",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": MARK}]},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "t"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "stream_options": {"include_usage": True},
        "logit_bias": {"5": 1},
        "stop": ["x"],
        "n": 1,
        "max_tokens": 5,
        "temperature": 0.5,
        "seed": 1,
        "user": "u",
        "prompt_cache_key": "k",
        "stream": True,
    },
    "/v1/completions": {"model": "desk", "prompt": MARK, "max_tokens": 4, "stop": "x", "echo": False, "n": 1},
    "/v1/embeddings": {"model": "desk", "input": [MARK], "encoding_format": "float", "dimensions": 3},
    "/v1/messages": {
        "model": "desk",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "S"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": MARK}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "disabled"},
    },
    "/v1/responses": {
        "model": "desk",
        "instructions": "S",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": MARK}]}],
        "max_output_tokens": 5,
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "metadata": {"a": "b"},
        "store": False,
    },
}


def mark(n: int) -> bytes:
    """A canary."""
    return b"mark%05dx%08x" % (n, crc32(b"%d" % n))


def marks(data: bytes) -> set[bytes]:
    """The canaries in these bytes whose check sum is right."""
    found = {(int(n), check) for n, check in re.findall(rb"mark(\d{5})x([0-9a-f]{8})", data)}
    return {b"%d" % n for n, check in found if check == b"%08x" % crc32(b"%d" % n)}


async def echo(request: dict[str, Any], wire: Wire) -> None:
    """Answers with all it was asked, in the form it was asked for."""
    said = json.dumps(request)
    if "input" in request and "messages" not in request:
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        body = {"object": "list", "data": data, "model": said, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        await wire.json(json.dumps(body).encode())
    elif "prompt" in request:
        if request.get("stream"):
            choice = {"index": 0, "text": said, "finish_reason": "stop"}
            await wire.stream([b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n", b"data: [DONE]\n\n"])
        else:
            choices = [{"index": 0, "text": said, "finish_reason": "stop"}]
            await wire.json(json.dumps({"id": "c", "object": "text_completion", "choices": choices}).encode())
    elif request.get("stream"):
        await wire.stream(streamed([said]))
    else:
        await wire.json(whole(said))


def post(path: str, body: bytes, *lines: str, chunks: int = 0) -> bytes:
    """A good request."""
    if chunks:
        pieces = [body[i : i + chunks] for i in range(0, len(body), chunks)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
        lines = ("Transfer-Encoding: chunked", *lines)
    else:
        content, lines = body, (f"Content-Length: {len(body)}", *lines)
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode() + content


def corpus() -> list[bytes]:
    """Good requests to start from; MARK stands for the canary."""
    found = [b"%b /healthz HTTP/1.1\r\nHost: localhost\r\nX-Mark: %b\r\n\r\n" % (m, _MARK) for m in (b"GET", b"HEAD")]
    found.append(b"GET /v1/models?a=" + _MARK + b" HTTP/1.1\r\nHost: localhost\r\nCookie: a=b\r\nAccept: */*\r\n\r\n")
    for path, body in BODIES.items():
        plain = json.dumps(body).encode()
        found += [post(path, plain), post(path, plain, chunks=40), post(path, plain, "Connection: close")]
        small = json.dumps({"model": "desk", "messages": [{"role": "user", "content": MARK}]}).encode()
        found.append(post("/v1/chat/completions", small) + post(path, plain) + found[0])
    found.append(post("/v1/chat/completions", small, "Connection: Upgrade", "Upgrade: h2c") + found[0])
    found.append(post("/v1/chat/completions", small, "Expect: 100-continue"))
    found.append(post("/v1/chat/completions", small).replace(b"HTTP/1.1", b"HTTP/1.0"))
    return found


_SPICE = [b"\r\n", b"\n", b"\r", b"\x00", b":", b" ", b"\t", b",", b";", b"\x0b", b"\xff", b"%00", b"0", b"0\r\n\r\n"]
_SPICE += [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"\r\n "]
_SPICE += [
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"Host: other\r\n",
    b"Connection: close\r\n",
    b"\\ud800",
]
_SPICE += [b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"[" * 400, b'"', b"}", b"1e999", b"-", b"9" * 30, b"null"]


def mutate(rng: random.Random, data: bytes, pool: list[bytes], most: int = 4) -> bytes:
    """One small change, or some."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 5, 20, 80)))
        match rng.randrange(8):
            case 0:
                out[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = rng.choice(_SPICE)
            case 3:
                out[at:at] = out[at:end]
            case 4:
                out[at:end] = rng.choice(_SPICE)
            case 5:
                other = rng.choice(pool)
                out[at:] = other[rng.randrange(len(other)) :]
            case 6:
                del out[at:]
            case _:
                digits = [i for i, c in enumerate(out) if 48 <= c < 58]
                if digits:
                    out[rng.choice(digits)] = rng.randrange(48, 58)
        if not out:
            out += b"\r"
    return bytes(out)


def mutated(rng: random.Random, pool: list[bytes]) -> bytes:
    """A third is wrong anywhere, a third only in its head, a third only in a body whose length is told right."""
    data = rng.choice(pool)
    head, end, body = data.partition(b"\r\n\r\n")
    match rng.randrange(3):
        case 0:
            return mutate(rng, data, pool)
        case 1:
            return mutate(rng, head, pool, 1) + end + body
    path = rng.choice(list(BODIES))
    return post(path, mutate(rng, json.dumps(BODIES[path]).encode(), pool, 1), chunks=rng.choice((0, 0, 7)))


def smuggled() -> Iterator[bytes]:
    """Every known way to tell two readers of one stream different lengths, each with a request inside."""
    inner = b"GET /v1/models?smuggled HTTP/1.1\r\nHost: localhost\r\nX-Mark: " + _MARK + b"\r\n\r\n"
    codings = ["chunked", "Chunked", "xchunked", "chunked, identity", "identity, chunked", "identity", " chunked"]
    codings += [
        "chunked ",
        "\tchunked",
        "\x0bchunked",
        "chunked\x0b",
        '"chunked"',
        "chunked;q=1",
        "chunked\x00",
        "",
        ",",
    ]
    codings += ["gzip, chunked", "chunked, chunked", "chunked\r\n ", "\r\n chunked", "\nchunked", "c\rhunked", "cow"]
    names = ["Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding", " Transfer-Encoding"]
    names += ["Transfer-Encoding\t", "X: y\nTransfer-Encoding", "X: y\rTransfer-Encoding", "Foo\r\nTransfer-Encoding"]
    n = len(inner)
    told = [f"{n}", f"+{n}", f"-{n}", f" {n}", f"{n} ", f"0{n}", f"0x{n:x}", f"{n}, {n}", f"{n},0", f"{n};a", f"{n}.0"]
    told += ["", "0", "6", f"{n}\r\nContent-Length: 0", f"0\r\nContent-Length: {n}", f"{n}\r\nContent-Length: {n}"]
    told += [f"1\r\n {n}", "9" * 25, "\x0b5", "5\x00", "٥", "1e1", f"{n}\r\nTransfer-Encoding: chunked"]
    line, end = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n", b"\r\n\r\n"
    bodies = [b"0\r\n\r\n" + inner, b"%x\r\n%b\r\n0\r\n\r\n" % (n, inner), inner, b"5c\r\n" + inner]
    for (name, coding), body in itertools.product(itertools.product(names, codings), bodies):
        yield line + f"{name}: {coding}".encode("latin-1") + end + body
        yield line + f"Content-Length: {n}\r\n{name}: {coding}".encode("latin-1") + end + body
        yield line + f"{name}: {coding}\r\nContent-Length: 4".encode("latin-1") + end + body
    for value, name in itertools.product(
        told, ("Content-Length", "Content-Length ", "Content_Length", "X: a\nContent-Length")
    ):
        yield line + f"{name}: {value}".encode() + end + inner
    sizes = [
        b"0x5",
        b"+5",
        b"-5",
        b" 5",
        b"5 ",
        b"5;a=b",
        b'5;a="\n"',
        b"5;\n",
        b"5\n",
        b"5\r",
        b"5;a\x00",
        b"00000000000000005",
    ]
    sizes += [b"10000000000000005", b"5_0", b"", b"g", b"5,5", b"5\r\n\r\n", b"FFFFFFFFFFFFFFFF", b"5;" + b"a" * 40_000]
    for size in sizes:
        yield line + b"Transfer-Encoding: chunked" + end + size + b"\r\nhello\r\n0\r\n\r\n" + inner
    chunked = line + b"Transfer-Encoding: chunked" + end
    for tail in (
        b"0\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"0\r\nContent-Length: 9\r\n\r\n",
        b"0\n\n",
        b"0\r\n\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
    ):
        yield chunked + b"5\r\nhello\r\n" + tail + inner
    for bad in (
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
    ):
        yield chunked + bad + inner
    targets = [
        b"*",
        b"/",
        b"//v1/models",
        b"/../v1/models",
        b"http://localhost/v1/models",
        b"http://other/healthz",
        b"a:1",
    ]
    targets += [
        b"/%",
        b"/%zz%00",
        b"/\xff",
        b"/a b",
        b"/#f",
        b"?",
        b"/v1/chat/completions?" + b"q" * 9000,
        b"",
        b"\x00",
    ]
    methods = [
        b"GET",
        b"HEAD",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"PUT",
        b"PATCH",
        b"DELETE",
        b"PRI",
        b"BREW",
        b"get",
        b"G\x00T",
    ]
    for target, method in itertools.product(targets, methods):
        yield b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, target) + inner
    for version in (
        b"",
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/11",
        b"http/1.1",
        b"HTTP/1.1 ",
    ):
        yield b"GET /healthz %b\r\nHost: localhost\r\n\r\n" % version + inner
    for host in (
        b"",
        b"Host: a\r\nHost: b\r\n",
        b"Host: [\r\n",
        b"Host: \r\n",
        b"Host: localhost\r\nOrigin: http://[\r\n",
        b"Host: localhost@evil\r\n",
    ):
        yield b"GET /v1/models HTTP/1.1\r\n%b\r\n" % host + inner
    yield b"GET /healthz\r\n\r\n" + inner
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + inner
    yield b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n" + inner
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 300
    for depth in (500, *range(880, 1000, 6), 100_000):  # about the interpreter's own limit, and far beyond
        nested = b'{"model":"desk","messages":[{"role":"user","content":"%b"}],"x":%b%b}' % (
            _MARK,
            b"[" * depth,
            b"]" * depth,
        )
        yield post("/v1/chat/completions", nested)


async def attack(f: Front, n: int, data: bytes) -> None:
    """Send, read what comes, and hold it against what a strict reader saw."""
    data = data.replace(_MARK, mark(n))
    methods, wrong = requests(data)
    reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
    got = b""
    try:
        writer.write(data)
        async with asyncio.timeout(0.15 if wrong else 5.0) as patience:
            while piece := await reader.read(1 << 18):
                got += piece
                wait = 2.0
                with suppress(Unfinished, AssertionError):  # an answer is still on its way
                    wait = 0.01 if len(answers(got, methods)) >= len(methods) + wrong else 0.15 if wrong else 2.0
                patience.reschedule(asyncio.get_running_loop().time() + wait)
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    found = answers(got, methods)
    assert {a.status for a in found} <= _CALLERS_FAULT, (data, found)
    extra = found[len(methods) :]
    assert len(extra) <= wrong, (data, found)
    assert all(a.status >= 400 and a.closes for a in extra), (data, found)
    assert marks(got) <= {b"%d" % n}, (data, got)


async def good(f: Front, n: int) -> None:
    """A good client on a connection of its own."""
    for stream in (False, True):
        asked = {"model": "desk", "messages": [{"role": "user", "content": mark(n).decode()}], "stream": stream}
        got = await f.post(asked)
        assert got.status == 200 and marks(got.body) == {b"%d" % n}, got


def open_files() -> list[str]:
    """Sockets that this process has open (none, where there is no /proc to ask)."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return [name for name in found if name.startswith("socket:")]


async def overrun(cases: list[bytes]) -> None:
    """All cases, many at once, good clients among them; then nothing may be left."""
    before, tasks = open_files(), asyncio.all_tasks()
    await storm(cases)
    async with asyncio.timeout(5):
        while len(open_files()) > len(before):
            await asyncio.sleep(0.02)
    assert not [t for t in asyncio.all_tasks() - tasks if not t.done()]


async def storm(cases: list[bytes]) -> None:
    """The cases, and what the gateway counts when they are over."""
    numbers = itertools.count()
    async with front(echo, body_limit=1 << 20) as f:
        left = iter(cases)

        async def client() -> None:
            for place, data in enumerate(left):
                await attack(f, next(numbers), data)
                if place % 32 == 0:
                    await good(f, next(numbers))

        async with asyncio.TaskGroup() as clients:
            for _ in range(min(AT_ONCE, len(cases))):
                clients.create_task(client())
        await good(f, next(numbers))
        for request in f.engine.requests:
            assert len(marks(json.dumps(request).encode())) <= 1, request
        async with asyncio.timeout(5):
            while f.gateway._connections:
                await asyncio.sleep(0.02)
        shared = f.gateway.fleet.shared
        assert [shared.members.total(0, c) for c in (0, 1)] == [0.0, 0.0]
        assert [shared.own.total(0, c) for c in (0, 1)] == [0.0, 0.0]


def test_ten_thousand_mutated_requests_do_no_harm() -> None:
    rng, pool = random.Random(_SEED), corpus()
    run(overrun([mutated(rng, pool) for _ in range(CASES)]))


def test_no_known_way_smuggles_a_request() -> None:
    run(overrun(list(smuggled())))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a body something stands."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def placed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The body with something else there."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = placed(value[path[0]], path[1:], new)
    return copy


_ODD = st.sampled_from(
    [None, True, -1, 0, 2**31, 2**64, 10**400, 1e308, "", "\x00", "a" * 5000, [], {}, [[]], [None], {"": 0}]
)
_JSON = st.recursive(
    _ODD | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_WRONG = st.sampled_from([(path, at) for path, body in BODIES.items() for at in places(body)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_WRONG, _JSON), min_size=12, max_size=12))
def test_a_wrong_value_in_any_field_is_the_callers_fault(wrong: list[tuple[tuple[str, tuple[Any, ...]], Any]]) -> None:
    async def check() -> None:
        async with front(echo) as f:
            for (path, at), value in wrong:
                got = await f.post(placed(BODIES[path], at, value), path=path)
                assert got.status in (200, 400, 404), (path, at, value, got)
                if got.status != 200:
                    assert got.json["error"]["message"], got

    run(check())


_HEADER = st.binary(max_size=30) | st.sampled_from([b"Host: localhost", b"Content-Length: 3", b"Expect: 100-continue"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.binary(max_size=30), st.lists(_HEADER, max_size=6), st.binary(max_size=40)), max_size=8))
def test_any_head_at_all_does_no_harm(soup: list[tuple[bytes, list[bytes], bytes]]) -> None:
    run(overrun([b"\r\n".join([first, *lines, b"", b""]) + body for first, lines, body in soup]))
