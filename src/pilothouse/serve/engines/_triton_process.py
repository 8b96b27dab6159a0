"""The process that `triton` launches: writes the model repository, keeps tritonserver as its child, and fronts it.

It runs in Triton's own Python, with Pilothouse's folder at the end of the search path: Triton's libraries come first.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilothouse.serve.engines._triton_models import Transport

STARTING = "pilothouse: starting Triton"
_READY_S = 600.0
_PREFIX = "pilothouse-triton"
_IDLE = re.compile(rb"^pilothouse_llm_requests_running(?:\{[^}]*\})? 0$", re.M)


def main() -> None:
    """Serve until SIGTERM; end with 1 when Triton ends."""
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    settings = json.loads(sys.argv[1])
    print(STARTING, file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; only the supervisor decides
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-"))
    try:
        reason = asyncio.run(_run(settings, folder))
    finally:
        _sweep(os.getpid())
    if reason:
        print(f"pilothouse: {reason}", file=sys.stderr, flush=True)
        sys.exit(1)


async def _run(settings: dict[str, Any], folder: Path) -> str:
    """Until SIGTERM ('') or the end of Triton (why)."""
    from pilothouse.serve.engines._openai_front import Front, serve

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = None if settings.get("url") else _start(settings, folder)
    transport = _transport(settings)
    try:
        if reason := await _until_ready(transport, server, stop):
            return reason
        generate = _model(settings, transport).generate
        key = os.environ["PILOTHOUSE_FRONT_KEY"]
        front = Front(
            settings["alias"], generate, key, lambda: _lives(server), lambda: _metrics(settings["metrics_url"])
        )
        serving = asyncio.create_task(serve(front, settings["port"], stop))
        while not serving.done() and _lives(server):
            await asyncio.wait([serving], timeout=0.2)
        if not serving.done():
            serving.cancel()
            return f"tritonserver ended (exit code {server.returncode if server else '?'})"
        await serving  # what it raised, for example a port that is taken
        return ""
    finally:
        await transport.close()
        if server is not None and server.poll() is None:
            # Its own way down takes 4 s (it polls by the second); with nobody on its ports, nothing is lost.
            if _IDLE.search(await _metrics(settings["metrics_url"])):
                server.kill()
            else:
                server.terminate()
            await asyncio.to_thread(server.wait)


def _start(settings: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """Write the repository, start tritonserver on it. Adds the addresses to `settings`."""
    from pilothouse.serve.engines import _triton_repository as repository
    from pilothouse.serve.ports import free_port

    models = Path(settings["repository"] or folder / "repository").absolute()
    if settings["backend"] == "vllm":
        repository.write_vllm(models, settings["name"], settings["engine_args"], settings["adapters"])
    else:
        keys = ("model", "alias", "adapters", "context", "streams", "threads")
        repository.write_llamacpp(models, settings["name"], {key: settings[key] for key in keys})
    http, grpc, metrics = settings["http_port"] or free_port(), settings["grpc_port"] or free_port(), free_port()
    settings |= {
        "url": f"http://127.0.0.1:{http}",
        "grpc_url": f"127.0.0.1:{grpc}",
        "metrics_url": f"http://127.0.0.1:{metrics}/metrics",
    }
    argv = [
        settings["server"],
        f"--model-repository={models}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--backend-config=python,shm-region-prefix-name={_PREFIX}-{os.getpid()}-",
        "--log-info=false",
        "--exit-timeout-secs=5",
        # Nobody needs to change the server's files or logs from outside: a name and a value that nobody is told.
        f"--http-restricted-api=shared-memory,model-repository,trace,logging:{_secret()}={_secret()}",
        f"--grpc-restricted-protocol=shared-memory,model-repository,trace,logging:{_secret()}={_secret()}",
    ]
    env = dict(os.environ)
    if settings["site"]:
        argv.append(f"--backend-directory={_backends(Path(settings['site']), folder)}")
        env |= _surroundings(Path(settings["site"]))
    print(
        f"triton: http {settings['url']}, grpc {settings['grpc_url']}, repository {models}", file=sys.stderr, flush=True
    )
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL)  # the warden ends it with us


def _backends(site: Path, folder: Path) -> Path:
    """The wheel keeps the Python back end and its stub for each version apart; Triton wants them in one folder."""
    triton = site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    target = folder / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", target)
    shutil.copy(stub, target)
    return target.parent


def _surroundings(site: Path) -> dict[str, str]:
    """The wheel's libraries and this Python's (else loading hangs). The stub finds its packages by PATH."""
    libraries = [str(site.parent / "nvidia_pytriton.libs"), str(site / "nvidia_pytriton.libs")]
    libraries += [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PATH": path}


def _transport(settings: dict[str, Any]) -> Transport:
    if settings["transport"] == "grpc":
        from pilothouse.serve.engines._triton_grpc import GrpcTransport

        return GrpcTransport(settings["grpc_url"], settings["name"])
    from pilothouse.serve.engines._triton_http import HttpTransport

    return HttpTransport(settings["url"], settings["name"])


def _model(settings: dict[str, Any], transport: Transport) -> Any:
    from pilothouse.serve.engines._triton_models import LlamaCppModel, VllmModel, chat_template

    if settings["backend"] == "vllm":
        return VllmModel(transport, chat_template(settings["tokenizer"]))
    return LlamaCppModel(transport, os.environ.get("PILOTHOUSE_ENGINE_KEY", ""))


async def _until_ready(transport: Transport, server: subprocess.Popen[bytes] | None, stop: asyncio.Event) -> str:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and not stop.is_set():
        if not _lives(server):
            return f"tritonserver ended while starting (exit code {server.returncode if server else '?'})"
        if await transport.ready():
            return ""
        await asyncio.sleep(0.1)
    return "" if stop.is_set() else "Triton does not become ready"


async def _metrics(url: str | None) -> bytes:
    from pilothouse.core.wire import target
    from pilothouse.serve.engines._triton_http import get

    if not url:
        return b""
    where = target(url)
    status, body = await get(where, "")
    return body if status == 200 else b""


def _lives(server: subprocess.Popen[bytes] | None) -> bool:
    return server is None or server.poll() is None


def _secret() -> str:
    import secrets

    return secrets.token_hex(8)


def _sweep(own: int = 0) -> None:
    """Files of killed processes like this one (and of our own, at the end): temporary folders, and the shared memory of
    Triton's Python back end."""
    for parent in (Path(tempfile.gettempdir()), Path("/dev/shm")):
        for left in parent.glob(f"{_PREFIX}-*"):
            owner = left.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
            gone = owner == str(own) or (owner.isdigit() and not Path(f"/proc/{owner}").exists())
            if not gone or left.lstat().st_uid != os.getuid():
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
