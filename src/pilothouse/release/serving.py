"""Put what a release names behind an endpoint: the same code for every stage's checks and for production."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.core.project.schema import Guard, Serve, Slo
from pilothouse.core.records import Asset
from pilothouse.guard.policy import Policy, compile_policy
from pilothouse.serve.base import Engine, EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.gateway import control
from pilothouse.serve.gateway.limits import Price
from pilothouse.serve.keyring import Keyring
from pilothouse.serve.recorder import StoreRecorder
from pilothouse.serve.run import Live
from pilothouse.serve.telemetry import Spans, open_spans
from pilothouse.store.store import Store


@dataclass(frozen=True)
class Served:
    """What is served, by digest: assets `base`, `adapter`, `prompt`, `policy`, and the engine with its settings."""

    name: str
    assets: dict[str, Asset]
    engine: dict[str, Any]
    release: str = ""


class Serving:
    """Running engines with model and adapter; gateways in front of them are added on demand. Stop it when done.

    settings: with them the whole of `serve` stands (replicas, further engines); without, one engine for the stages.
    """

    def __init__(
        self, served: Served, store: Store, *, note: Callable[[str], None], settings: Serve | None = None
    ) -> None:
        self.served, self.store, self._note = served, store, note
        self._prompt = store.read(served.assets["prompt"], "system.txt").decode()
        deployments = [self._own(settings), *self._others(settings)]
        self._live = Live(deployments, store.root / "engines" / served.name, note)
        self._live.start()
        self._urls: dict[bool, str] = {}
        self._drain_s = 10.0
        self._keyring: Keyring | None = None
        self._spans: Spans | None = None

    @property
    def policy(self) -> Policy:
        """The guard, compiled from the policy asset."""
        asset = self.served.assets["policy"]
        settings = Guard.model_validate_json(self.store.read(asset, "policy.json"))
        return compile_policy(settings, folder=self.store.folder(asset))

    def url(self, *, guarded: bool) -> str:
        """A loopback gateway for the stages, with the guard or without."""
        if guarded not in self._urls:
            self._urls[guarded] = self._live.gateway(policy=self.policy if guarded else None)
        return self._urls[guarded]

    def front(self, settings: Serve, *, slo: Slo, port: int, keys: dict[str, str], folder: Path, console: str) -> str:
        """The production front: guarded, keyed, recording exchanges, the console behind it on a unix socket."""
        self._drain_s = settings.drain_s
        keyring = self._keyring = Keyring(self.store, keys)
        recorder = self._recorder = StoreRecorder(self.store, record_text=settings.record_text)
        self._spans = open_spans(record_text=settings.record_text, note=self._note)
        self._slo, self._folder, self._settings = slo, folder, settings
        self._tls = _certificate(folder, settings)
        url, self._front = self._live.front(
            self._configured(),
            host=settings.host,
            port=port,
            public=settings.public,
            processes=settings.processes or cores(),
            recorder=recorder,
            seen=self._spans.add if self._spans is not None else None,
            proxy=console,
        )
        free = not (settings.price.input or settings.price.output)
        known = keyring.keys()
        if free and any(key.budget is not None for key in known):
            self._note("a key has a budget, but serve.price is 0: it will never be used up")
        keyring.attach(self._front.memory, lambda: self._live.configure(self._front, self._configured()))
        return url

    def reload(self, settings: Serve, slo: Slo) -> None:
        """New settings for requests from now on: keys, limits, admission, hedging, patience, certificates. Streams go
        on. What only a start can change (engines, host, port, processes) is left as it is, and said."""
        tls = _certificate(self._folder, settings)  # a mistake in it changes nothing
        changed = [name for name in _FIXED if getattr(settings, name) != getattr(self._settings, name)]
        if changed:
            self._note(f"serve.{', serve.'.join(changed)}: changed, but only a new start will obey")
        self._settings, self._slo, self._tls, self._drain_s = settings, slo, tls, settings.drain_s
        self._recorder.keeps_text = settings.record_text
        self._live.configure(self._front, self._configured())

    def stop(self) -> None:
        """Drain and end gateways and engines."""
        self._live.stop(self._drain_s)
        if self._keyring is not None:
            self._keyring.close()
        if self._spans is not None:
            self._spans.close()

    def _configured(self) -> control.Configure:
        """What the gateway's processes are told."""
        assert self._keyring is not None
        settings = self._settings
        asset = self.served.assets["policy"]
        return control.Configure(
            policy=self.store.read(asset, "policy.json"),
            policy_folder=str(self.store.folder(asset)),
            keys=self._keyring.keys(),
            body_limit=settings.max_body_kb * 1024,
            admission=settings.admission,
            ttft_s=self._slo.ttft_ms / 1e3 if self._slo.ttft_ms else None,
            price=Price(settings.price.input, settings.price.output),
            wait_ready_s=settings.wait_ready_s,
            hedge_s=settings.hedge_ms / 1e3 if settings.hedge_ms else None,
            first_s=settings.first_byte_s,
            next_s=settings.next_byte_s,
            traced=self._spans is not None,
            keeps_text=settings.record_text,
            **self._tls,
        )

    def _own(self, settings: Serve | None) -> Deployment:
        """The release's engine: base model and adapter, each under a name of its own."""
        served, store = self.served, self.store
        spec_of = served.engine
        engine: Engine = registry.create("engines", spec_of["engine"], where="pilothouse.yaml: serve.engine")
        base, adapter = store.folder(served.assets["base"]), store.folder(served.assets["adapter"])
        gguf = engine.format == "gguf"
        spec = EngineSpec(
            model=base / "model.gguf" if gguf else base,
            alias=served.name if gguf else f"{served.name}-base",  # vLLM: an adapter is a model name
            adapters=((served.name, adapter / "adapter.gguf" if gguf else adapter),),
            context=spec_of["context"],
            streams=spec_of["streams"],
            options=spec_of["options"],
            needs=frozenset(settings.needs if settings else ()),
        )
        routes = {
            served.name: Route(served.name, self._prompt, served.release),
            f"{served.name}-base": Route(None, self._prompt, served.release),
        }
        return Deployment(served.name, spec_of["engine"], spec, routes, replicas=settings.replicas if settings else 1)

    def _others(self, settings: Serve | None) -> list[Deployment]:
        """Engines that the project names beside it. They answer under the release's name, with its prompt."""
        name = self.served.name
        return [
            Deployment(
                b.name,
                b.engine,
                EngineSpec(
                    Path(str(b.options.get("model", ""))),
                    name,
                    context=self.served.engine["context"],
                    streams=b.streams,
                    options=b.options,
                ),
                {name: Route(None, self._prompt, f"{self.served.release}+{b.name}" if self.served.release else "")},
                role=b.role,
                weight=b.weight,
                where=f"pilothouse.yaml: serve.backends.{b.name}",
            )
            for b in (settings.backends if settings else ())
        ]


_FIXED = ("engine", "options", "needs", "replicas", "backends", "host", "port", "public", "processes", "keys_env")


def _certificate(folder: Path, settings: Serve) -> dict[str, str]:
    """Files of the certificate and its key, tried here so that a bad one is said before it is handed on."""
    cert, key = _file(folder, settings.tls_cert, "tls_cert"), _file(folder, settings.tls_key, "tls_key")
    if cert:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key or None, password="")
        except (ssl.SSLError, OSError) as e:
            what = f"{settings.tls_cert!r} and its key cannot be used ({getattr(e, 'reason', None) or e})"
            fix = "Give a certificate chain and its key in PEM, the key without a password."
            raise UserError(what, where="pilothouse.yaml: serve.tls_cert", fix=fix) from None
    return {"tls_cert": cert, "tls_key": key}


def _file(folder: Path, name: str | None, key: str) -> str:
    if name is None:
        return ""
    path = folder / name
    if not path.is_file():
        raise UserError(f"no such file: {str(path)!r}", where=f"pilothouse.yaml: serve.{key}")
    return str(path)
