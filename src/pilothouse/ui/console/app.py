"""The console's pages as a Starlette application. Every page is data first: HTML by template, JSON on request."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pilothouse.core.errors import UserError
from pilothouse.core.records import Measure, Report
from pilothouse.release import card, record
from pilothouse.store import runs
from pilothouse.store.store import Store
from pilothouse.ui.console import pages

TEMPLATES = Path(__file__).with_name("templates")
_SAFETY = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
Data = Callable[[Request], dict[str, Any]]


def app(store: Store, gateway_metrics_url: str | None) -> Starlette:
    """The application over one store. It only reads. Endpoints are plain functions, so a slow one holds no other up."""
    shown = _Shown(store)
    made: list[tuple[str, str, Data]] = [
        ("/", "home.html", lambda _: pages.home(store, gateway_metrics_url)),
        ("/releases", "releases.html", lambda _: pages.releases(store)),
        ("/releases/{id}", "release_page.html", lambda r: pages.release(store, r.path_params["id"])),
        ("/runs", "runs.html", lambda _: pages.every_run(store)),
        ("/runs/{id}", "run.html", lambda r: pages.run(store, r.path_params["id"])),
        ("/live", "live.html", lambda _: pages.live(store, gateway_metrics_url)),
        ("/assets", "assets.html", lambda _: pages.assets(store)),
        ("/assets/{id}", "asset.html", lambda r: pages.asset(store, r.path_params["id"])),
        ("/keys", "keys.html", lambda _: pages.every_key(store)),
    ]
    routes = [Route("/releases/{id}/card", shown.card), Route("/console.js", _script)]
    for path, template, data in made:
        page = shown.page(template, data)
        routes += [Route("/home.json" if path == "/" else f"{path}.json", page), Route(path, page)]
    return Starlette(routes=routes, exception_handlers={404: shown.missing, UserError: shown.missing})


class _Shown:
    """Data as HTML or JSON. Release pages are kept while the runs that they rest on stay the same."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._render = card.environment(TEMPLATES).get_template
        self._release = lru_cache(maxsize=32)(self._draw_release)

    def page(self, template: str, data: Data) -> Callable[[Request], Response]:
        """An endpoint: `.json` or `?format=json` gives the data, anything else the page."""

        def endpoint(request: Request) -> Response:
            if request.url.path.endswith(".json") or request.query_params.get("format") == "json":
                return Response(msgspec.json.encode(data(request)), media_type="application/json", headers=_SAFETY)
            if template == "release_page.html":
                found = record.get(self._store, request.path_params["id"])
                return self._html(template, release=found, body=self._release(found.id, self._ended(found)))
            return self._html(template, d=data(request))

        return endpoint

    def card(self, request: Request) -> Response:
        """The card as a file of its own, to keep or send."""
        found = record.get(self._store, request.path_params["id"])
        name = f'inline; filename="{found.id}.html"'
        text = card.card(found, record.reports(self._store, found))
        safety = {**_SAFETY, "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(text, headers={**safety, "content-disposition": name})

    def missing(self, request: Request, error: Exception) -> Response:
        """What was asked for is not there: one line that says so."""
        said = error.line() if isinstance(error, UserError) else f"There is no page {request.url.path!r}."
        if request.url.path.endswith(".json") or request.query_params.get("format") == "json":
            body = msgspec.json.encode({"error": said})
            return Response(body, status_code=404, media_type="application/json", headers=_SAFETY)
        return self._html("missing.html", status=404, said=said)

    def _html(self, template: str, *, status: int = 200, **values: Any) -> Response:
        text = self._render(template).render(
            css=card.css(), drawn=card.draw, as_report=_as_report, as_measures=_as_measures, **values
        )
        return HTMLResponse(text, status_code=status, headers=_SAFETY)

    def _ended(self, release: record.Release) -> tuple[float | None, ...]:
        found = (runs.find(self._store, run_id) for run_id in release.runs.values())
        return tuple(r.ended if r else None for r in found)

    def _draw_release(self, release_id: str, ended: tuple[float | None, ...]) -> str:
        release = record.get(self._store, release_id)
        template = self._render("release.html")
        return template.render(release=release, reports=record.reports(self._store, release), drawn=card.draw)


def _script(_: Request) -> Response:
    text = (TEMPLATES / "console.js").read_text(encoding="utf-8")
    return Response(text, media_type="text/javascript", headers=_SAFETY)


def _as_report(plain: dict[str, Any]) -> Report:
    return msgspec.convert(plain, Report)


def _as_measures(plain: list[dict[str, Any]]) -> list[Measure]:
    return msgspec.convert(plain, list[Measure])
