"""How are other gateways started for the same upstream? LiteLLM's proxy, vllm-router, nginx; each where installed.

All are started at once, since LiteLLM takes seconds to import. One that is missing or does not answer in time has a
reason instead of figures.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import benchmarks.peers_venv as peers
from benchmarks.gateway_arms import Arm
from benchmarks.gateway_load import ask, exact
from pilothouse.core.client import run
from pilothouse.serve.ports import free_port

LITELLM_KEY = "sk-bench-0123456789abcdef0123456789abcdef"


@dataclass
class Peer:
    """One that is starting."""

    arm: Arm
    version: str | None
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self, deadline: float) -> str:
        """Wait until it answers a chat request; '' or why it does not."""
        where, request = ask(self.arm.url, self.arm.headers, stream=False)
        while True:
            if (code := self.process.poll()) is not None:
                return f"it ended at its start (code {code}): {_last_line(self.log)}"
            try:
                run(exact(where, request))
                return ""
            except RuntimeError as e:
                if time.monotonic() > deadline:
                    return f"it did not answer in time ({e})"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, by force when it will not."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def nginx(upstream: str, folder: Path) -> Peer | str:
    """nginx as a plain proxy: one worker, no buffering, kept upstream connections."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        return "not installed"
    port = free_port()
    temp = "".join(f"{n}_temp_path {folder}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; {temp}"
        f"upstream u {{ server {upstream.removeprefix('http://')}; keepalive 256; }}"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000000;"
        "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection '';"
        "proxy_buffering off; } } }"
    )
    words = subprocess.run([found, "-v"], capture_output=True, text=True, check=False).stderr
    version = re.search(r"nginx/(\S+)", words)
    argv = [found, "-c", str(config), "-p", str(folder)]
    return _start("nginx", argv, port, folder, version[1] if version else None)


def vllm_router(upstream: str, folder: Path) -> Peer | str:
    """vllm-router (Rust), with the gateway's work that it does by default: metrics, retries, circuit breaking."""
    found = peers.program("vllm-router")
    if found is None:
        return "not installed"
    port = free_port()
    argv = [str(found), "--worker-urls", upstream, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--policy", "round_robin", "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return _start("vllm_router", [*argv, "--log-level", "error"], port, folder, peers.version("vllm-router"))


def litellm(upstream: str, folder: Path) -> Peer | str:
    """LiteLLM's proxy: one worker, a master key (it asks for one), no database, nothing sent home."""
    found = peers.program("litellm")
    if found is None:
        return "not installed"
    port, config = free_port(), folder / "config.yaml"
    config.write_text(
        'model_list:\n  - model_name: "null"\n    litellm_params:\n      model: openai/null\n'
        f"      api_base: {upstream}/v1\n      api_key: none\nlitellm_settings:\n  telemetry: false\n"
    )
    argv = [str(found), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    env = {**os.environ, **quiet, "LITELLM_MASTER_KEY": LITELLM_KEY}
    headers = {"Authorization": f"Bearer {LITELLM_KEY}"}
    return _start("litellm", argv, port, folder, peers.version("litellm"), env=env, headers=headers, slow=True)


PEERS: dict[str, Callable[[str, Path], Peer | str]] = {
    "litellm": litellm,
    "vllm_router": vllm_router,
    "nginx": nginx,
}


@contextmanager
def starting(upstream: str, folder: Path) -> Iterator[dict[str, Peer | str]]:
    """Every peer, started but not waited for; all are ended with the block."""
    found: dict[str, Peer | str] = {}
    try:
        for name, start in PEERS.items():
            (folder / name).mkdir()
            found[name] = start(upstream, folder / name)
        yield found
    finally:
        for peer in found.values():
            if isinstance(peer, Peer):
                peer.stop()


def _start(
    name: str,
    argv: list[str],
    port: int,
    folder: Path,
    version: str | None,
    *,
    env: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    slow: bool = False,
) -> Peer:
    env = {k: v for k, v in (env or dict(os.environ)).items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder
        )
    arm = Arm(name, f"http://127.0.0.1:{port}", headers or {}, (), (process.pid,), slow)
    return Peer(arm, version, process, log)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""
