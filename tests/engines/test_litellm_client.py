"""LiteLLM as a client of the gateway, in every form it can ask in. It lives in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.serve.scripted import Wire, front, run, streamed, whole

pytestmark = pytest.mark.engine

CLIENT = """
import json, sys
import litellm
base = sys.argv[1]
ask = {"api_base": f"{base}/v1", "api_key": "none", "messages": [{"role": "user", "content": "hi"}], "max_retries": 0}
said = {}
said["whole"] = litellm.completion(model="openai/desk", **ask).choices[0].message.content
chunks = list(litellm.completion(model="openai/desk", stream=True, **ask))
said["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
said["usage"] = litellm.completion(model="openai/desk", **ask).usage.total_tokens
asked = litellm.responses(model="openai/desk", input="hi", api_base=f"{base}/v1", api_key="none")
said["responses"] = asked.output[0].content[0].text
ask["api_base"] = base
said["messages"] = litellm.completion(model="anthropic/desk", max_tokens=9, **ask).choices[0].message.content
chunks = list(litellm.completion(model="anthropic/desk", max_tokens=9, stream=True, **ask))
said["messages streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
try:
    litellm.completion(model="openai/nobody", **{**ask, "api_base": f"{base}/v1"})
except litellm.NotFoundError as e:
    said["unknown model"] = "desk" in str(e)
print(json.dumps(said))
"""


def python() -> Path:
    named = os.environ.get("PILOTHOUSE_LITELLM_PYTHON")
    peers = Path(os.environ.get("PILOTHOUSE_PEERS", Path.home() / ".cache" / "pilothouse-peers"))
    found = Path(named) if named else peers / "litellm" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"no LiteLLM at {found} (python -m benchmarks.peers_venv installs it)")
    return found


def test_litellm_asks_in_every_form_and_gets_the_same_words() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        await (wire.stream(streamed(["Good ", "day"])) if request.get("stream") else wire.json(whole("Good day")))

    async def check() -> None:
        async with front(script) as f:
            environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
            argv = (str(python()), "-c", CLIENT, f.url)
            client = await asyncio.create_subprocess_exec(
                *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
            )
            out, err = await asyncio.wait_for(client.communicate(), 120)
            assert client.returncode == 0, err.decode()[-2000:]
            said = json.loads(out.decode().strip().splitlines()[-1])
            assert said.pop("usage") == 14 and said.pop("unknown model") is True
            assert set(said.values()) == {"Good day"} and len(said) == 5

    run(check())
