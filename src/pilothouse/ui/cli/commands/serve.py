"""Serve a release (the newest by default): engines, gateway, guard and console, until ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilothouse.ui.cli.stage import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilothouse.core.project import Project
    from pilothouse.release.serving import Serving
    from pilothouse.store.store import Store


@click.command("serve", help=__doc__)
@PROJECT
@click.option("--release", "release_id", metavar="ID", help="Another release than the project's newest.")
@click.option("--unshipped", is_flag=True, help="Serve it on loopback although its verdict is not 'ship'.")
@click.option("--port", type=click.IntRange(0, 65535), help="Another port than the project's.")
def command(project: Path, release_id: str | None, unshipped: bool, port: int | None) -> None:
    """Only what its gates let pass is served; anything else needs --unshipped and stays on loopback."""
    from pilothouse.core.project import load_project
    from pilothouse.store.store import Store

    declared = load_project(project)
    store = Store.open(create=False)
    serve_release(declared, store, release_id, unshipped=unshipped, port=port)


def serve_release(
    declared: Project, store: Store, release_id: str | None, *, unshipped: bool, port: int | None
) -> None:
    """Put the release in front of callers and wait for ctrl-C or SIGTERM; then drain and stop all processes."""
    import os
    import signal
    import time

    from pilothouse.core.errors import UserError
    from pilothouse.release import record
    from pilothouse.release.serving import Served, Serving
    from pilothouse.serve.ports import check_port, free_port
    from pilothouse.ui.cli.console_process import ConsoleProcess
    from pilothouse.ui.cli.progress import Terminal

    serve, name = declared.serve, declared.project
    known = record.every(store, project=name)
    if not known and release_id is None:
        raise UserError(f"project {name!r} has no release", where=str(store.root), fix="First: pilothouse ship PROJECT")
    release = record.get(store, release_id) if release_id else known[0]
    if release.verdict != "ship" and not unshipped:
        raise UserError(
            f"release {release.id} may not be served: its verdict is {release.verdict!r}",
            fix="See: pilothouse show release. To try it on loopback all the same: --unshipped",
        )
    if release.verdict != "ship" and serve.public:
        raise UserError("an unshipped release is never served publicly", where="pilothouse.yaml: serve.public")
    keys = _keys(serve.keys_env)
    bound = (serve.port if port is None else port) or free_port()
    check_port(serve.host, bound)
    assets = {role: store.asset(release.digests[role]) for role in ("base", "adapter", "prompt", "policy")}
    progress = Terminal()
    made: dict[str, object] = {"engine": serve.engine, "options": serve.options}
    made |= {"context": declared.use.context, "streams": declared.use.streams}
    for key, value in made.items():
        if release.serving.get(key) != value:
            at = f"serve.{key}" if key in ("engine", "options") else f"use.{key}"
            progress.note(
                f"{at} is now {value!r}, but this release was made with {release.serving.get(key)!r}: ship again"
            )
    stop, again = _on_signals(signal.SIGTERM, signal.SIGINT), _on_signals(signal.SIGHUP)
    scheme = "https" if serve.tls_cert else "http"
    with ConsoleProcess(store, f"{scheme}://{serve.host}:{bound}/metrics") as console:
        progress.begin("starting the engine")
        served = Served(release.project, assets, release.serving, release.id)
        serving = Serving(served, store, note=progress.note, settings=serve)
        try:
            progress.end()
            url = serving.front(
                serve,
                slo=declared.use.slo,
                port=bound,
                keys=keys,
                folder=declared.folder,
                console=console.socket,
            )
            store.audit("serve", release.id, {"url": url, "pid": os.getpid()})
            progress.headline(f"{release.id} ({release.verdict}) answers at {url}/v1  ·  console: {url}/")
            progress.note(f"try: curl {url}/v1/models")
            progress.note("ctrl-C stops it")
            while not stop:
                time.sleep(0.2)
                if again:
                    again.clear()
                    _reload(declared, serving, progress.note)
            progress.headline("stopping …")
        finally:
            serving.stop()


def _keys(variable: str | None) -> dict[str, str]:
    """name → key from the environment variable that the project names; never from the file itself."""
    import os

    from pilothouse.core.errors import UserError

    if variable is None:
        return {}
    value = os.environ.get(variable, "")
    pairs = [pair.strip().partition(":") for pair in value.split(",") if pair.strip()]
    if not pairs or any(not (name and key) for name, _, key in pairs):
        raise UserError(
            f"environment variable {variable} must hold name:key pairs",
            where="pilothouse.yaml: serve.keys_env",
            fix=f"For example: export {variable}=app:$(openssl rand -hex 24)",
        )
    return {name: key for name, _, key in pairs}


def _reload(declared: Project, serving: Serving, note: Callable[[str], None]) -> None:
    """SIGHUP: the project's file is read again; a mistake in it changes nothing."""
    from pilothouse.core.errors import UserError
    from pilothouse.core.project import load_project

    try:
        now = load_project(declared.folder)
        serving.reload(now.serve, now.use.slo)
        note("settings read again: they count for requests from now on")
    except UserError as e:
        note(f"settings not changed: {e.line()}")


def _on_signals(*numbers: int) -> list[int]:
    """A list that fills when one of the signals arrives (a second ctrl-C raises KeyboardInterrupt)."""
    import signal

    arrived: list[int] = []

    def note(number: int, _: object) -> None:
        if arrived and number != signal.SIGHUP:
            raise KeyboardInterrupt
        arrived.append(number)

    for number in numbers:
        signal.signal(number, note)
    return arrived
