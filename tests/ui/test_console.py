"""The console: every page from data that JSON gives too, escaped, right on an empty store, read in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Gate
from pilothouse.core.records import Asset, Measure, Outcome, Plot, Report, Series, Table
from pilothouse.release import gates, record
from pilothouse.serve.gateway.layout import GENERATION, LATENCY, PROMPT, TTFT
from pilothouse.serve.gateway.metrics import Metrics
from pilothouse.serve.gateway.routing.fleet import Fleet, Member, Served
from pilothouse.serve.gateway.shared import Shared
from pilothouse.store import keys, runs, schema
from pilothouse.store.store import Store
from pilothouse.ui.console import gateway

pytest.importorskip("starlette")
pytest.importorskip("matplotlib")
from starlette.testclient import TestClient

from pilothouse.ui.console.app import app

EVIL = "<script>alert('x')</script>"
PAGES = ("/", "/releases", "/runs", "/live", "/assets", "/keys")
METRICS = """
# TYPE pilothouse_requests counter
pilothouse_requests_total{model="airline",status="200"} 7.0
pilothouse_requests_total{model="airline",status="503"} 1.0
pilothouse_requests_total{model="airline-base",status="200"} 2.0
# TYPE pilothouse_requests_in_flight gauge
pilothouse_requests_in_flight 3.0
# TYPE gen_ai_server_time_to_first_token_seconds histogram
gen_ai_server_time_to_first_token_seconds_bucket{le="+Inf",model="airline"} 4.0
gen_ai_server_time_to_first_token_seconds_count{model="airline"} 4.0
gen_ai_server_time_to_first_token_seconds_sum{model="airline"} 0.5
# TYPE pilothouse_guard_decisions counter
pilothouse_guard_decisions_total{decision="blocked",detector="injection"} 2.0
# TYPE gen_ai_client_token_usage counter
gen_ai_client_token_usage_total{model="airline",type="output"} 90.0
# TYPE pilothouse_engine_ready gauge
pilothouse_engine_ready{engine="airline-0"} 1.0
pilothouse_engine_ready{engine="airline-1"} 0.0
# TYPE pilothouse_engine_restarts gauge
pilothouse_engine_restarts{engine="airline-1"} 2.0
"""


def execute(store: Store, stage: str, report: Report, **outputs: Asset) -> runs.Run:
    def step(ctx: runs.Context) -> Outcome:
        ctx.log.info("step of %s %s", stage, EVIL)
        return Outcome(report, outputs)

    return runs.execute(store, stage, "airline", {"note": EVIL}, {}, step, Silent())


def fill(store: Store) -> record.Release:
    """Runs through the real runner, gates by the real judge, a release and exchanges."""
    adapter = store.add_asset("adapter", "airline", {"a.bin": b"x" * 9}, licence="MIT", origin="made here")
    delta = Measure("evaluate.intent_match.delta", 0.4137931, "share", 0.3311, 0.4915, 150, "paired difference")
    ttft = Measure("measure.ttft_p50", 93.5421, "ms", 83.3, 111.7, 60, "order statistics")
    plot = Plot("line", "Loss", "step", "nats", [Series("train", [1, 2], [2.0, 1.0])])
    table = Table("Worst rows", ["row", "text"], [["t-1", EVIL]])
    done = {
        "tune": execute(store, "tune", Report("tune", "Tuning", "It learnt.", plots=(plot,)), adapter=adapter),
        "evaluate": execute(store, "evaluate", Report("evaluate", "Scores", EVIL, (delta,), tables=(table,))),
        "measure": execute(store, "measure", Report("measure", "Speed", "Fast.", (ttft,))),
    }
    with pytest.raises(ZeroDivisionError):
        runs.execute(store, "redteam", "airline", {}, {}, lambda _: 1 // 0, Silent())  # type: ignore[arg-type, return-value]
    rules = [
        Gate(name="better", measure="evaluate.intent_match.delta", above=0),
        Gate(name="fast", measure="measure.ttft_p50", below=80),
        Gate(name="safe", measure="redteam.asr.on", below=0.1),
    ]
    results = tuple(gates.judge(g, [r.report for r in done.values() if r.report]) for g in rules)
    made = record.Release(
        "airline-0011223344",
        "airline",
        f"Desk {EVIL}",
        1_790_000_000.0,
        gates.verdict(results),
        results,
        {"adapter": adapter.digest},
        {stage: run.id for stage, run in done.items()},
        runs.machine(),
        {"engine": "llamacpp", "options": {"text": EVIL}},
    )
    row: dict[str, Any] = {"id": "e1", "at": time.time(), "release": made.id, "model": "airline", "caller": "desk"}
    row |= {"stream": True, "status": 200, "ttft_ms": 81.25, "latency_ms": 704.5, "tokens_in": 70, "tokens_out": 24}
    row |= {"guard": "redacted", "findings": b'[{"detector":"pii","category":"email","score":1.0}]', "answer": EVIL}
    row["request"] = msgspec.json.encode([{"role": "user", "content": f"Where is my bag? {EVIL}"}])
    with store.engine.begin() as c:
        c.execute(sa.insert(schema.exchanges).values(**row))
    return record.keep(store, made)


@pytest.fixture
def filled(store: Store) -> tuple[Store, record.Release, TestClient]:
    release = fill(store)
    return store, release, TestClient(app(store, None))


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_store_has_every_page_and_says_what_to_do(path: str, store: Store) -> None:
    client = TestClient(app(store, None))
    answer = client.get(path)
    assert answer.status_code == 200
    wanted = {"/live": "curl", "/keys": "pilothouse keys add"}.get(path, "pilothouse s")
    assert wanted in answer.text


def test_every_page_has_its_json(filled: tuple[Store, record.Release, TestClient]) -> None:
    store, release, client = filled
    run, asset = runs.every(store)[0], store.assets()[0]
    for path in (*PAGES[1:], f"/releases/{release.id}", f"/runs/{run.id}", f"/assets/{asset.digest}"):
        assert client.get(path).headers["content-type"].startswith("text/html")
        plain, asked = client.get(f"{path}.json").json(), client.get(f"{path}?format=json").json()
        assert plain.keys() == asked.keys() and (path == "/live" or plain == asked)
    assert client.get("/home.json").json() == client.get("/?format=json").json()


def test_a_releases_json_is_the_record_with_its_reports(filled: tuple[Store, record.Release, TestClient]) -> None:
    store, release, client = filled
    plain = client.get(f"/releases/{release.id}.json").json()
    assert plain["verdict"] == "hold" and plain["digests"] == release.digests
    assert [g["verdict"] for g in plain["gates"]] == ["pass", "fail", "inconclusive"]
    expected = {**msgspec.to_builtins(release), "reports": msgspec.to_builtins(record.reports(store, release))}
    assert plain == json.loads(msgspec.json.encode(expected))


def test_nothing_that_was_written_becomes_markup(filled: tuple[Store, record.Release, TestClient]) -> None:
    store, release, client = filled
    paths = [*PAGES, f"/releases/{release.id}", f"/releases/{release.id}/card", f"/runs/{EVIL}", f"/{EVIL}"]
    paths += [f"/runs/{r.id}" for r in runs.every(store)] + [f"/assets/{a.digest}" for a in store.assets()]
    pages = [client.get(path).text for path in paths]
    assert all("alert('x')" not in page and "<script>" not in page for page in pages)
    assert sum("alert(&#39;x&#39;)" in page for page in pages) >= 6


def test_pages_forbid_scripts_from_elsewhere(filled: tuple[Store, record.Release, TestClient]) -> None:
    _, release, client = filled
    for path in (*PAGES, f"/releases/{release.id}", "/nowhere"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "script-src" not in client.get(f"/releases/{release.id}/card").headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/nowhere", "/runs/none", "/releases/none", "/assets/none00", "/assets/x"])
def test_what_is_not_there_is_404_in_one_line(path: str, filled: tuple[Store, record.Release, TestClient]) -> None:
    client = filled[2]
    assert client.get(path).status_code == 404
    answer = client.get(f"{path}.json")
    assert answer.status_code == 404 and "\n" not in answer.json()["error"]


def test_a_run_shows_status_log_settings_and_assets(filled: tuple[Store, record.Release, TestClient]) -> None:
    store, release, client = filled
    page = client.get(f"/runs/{release.runs['tune']}").text
    assert "✓ done" in page and "step of tune" in page and "adapter:airline@" in page and 'class="plot"' in page
    (failed,) = [r for r in runs.every(store) if r.status == "failed"]
    page = client.get(f"/runs/{failed.id}").text
    assert "✗ failed" in page and "ZeroDivisionError" in page and "data-refresh" not in page


def test_a_running_run_refreshes_and_one_whose_process_died_is_not_called_running(
    filled: tuple[Store, record.Release, TestClient],
) -> None:
    store, release, client = filled
    run = release.runs["tune"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def running_as(pid: int) -> str:
        with store.engine.begin() as c:
            c.execute(
                sa.update(schema.runs).where(schema.runs.c.id == run).values(status="running", pid=pid, ended=None)
            )
        return client.get(f"/runs/{run}").text

    alive, dead = running_as(os.getpid()), running_as(ended.pid)
    assert "data-refresh" in alive and "… running" in alive
    assert "data-refresh" not in dead and "‖ interrupted" in dead and "run it again to resume" in dead
    listed = {r["id"]: r for r in client.get("/runs.json").json()["runs"]}
    assert listed[run]["status"] == "interrupted" and listed[run]["seconds"] is None


def test_a_release_page_follows_a_run_that_was_made_anew(filled: tuple[Store, record.Release, TestClient]) -> None:
    store, release, client = filled
    assert "It learnt." in client.get(f"/releases/{release.id}").text
    new = Report("tune", "Tuning", "It learnt more.")
    runs.execute(store, "tune", "airline", {"note": EVIL}, {}, lambda _: Outcome(new), Silent(), fresh=True)
    assert "It learnt more." in client.get(f"/releases/{release.id}").text


def test_the_keys_page_shows_limits_usage_and_budget_and_never_a_secret_or_its_digest(store: Store) -> None:
    app_key, secret = keys.add(store, "app", requests_per_minute=6000, budget=8.0, models=(EVIL, "airline"))
    ended, _ = keys.add(store, "old")
    keys.revoke(store, "old")
    late, _ = keys.add(store, "late", expires=time.time() + 0.05)
    now = time.time()
    used = keys.Usage(app_key.id, keys.today(now), 1234, 5_000, 700, 2.0, 3, now)
    keys.add_usage(store, [used, keys.Usage(app_key.id, "2020-02-01", requests=10**6, cost=99.0)])
    time.sleep(0.06)
    client = TestClient(app(store, None))
    page, plain = client.get("/keys").text, client.get("/keys.json").json()
    assert [(k["name"], k["state"]) for k in plain["keys"]] == [
        ("app", "live"),
        ("late", "expired"),
        ("old", "revoked"),
    ]
    assert plain["keys"][0]["month"]["requests"] == 1234 and plain["keys"][0]["month"]["share"] == 0.25
    for text in ("1,234", "6,000 requests a minute", "5,000 → 700", "25.0 %", app_key.shown, "✗ revoked", "‖ expired"):
        assert text in page, text
    assert "1,001,234" not in page and EVIL not in page
    for key in (app_key, ended, late):
        assert key.digest not in page + client.get("/keys.json").text and key.digest[:12] not in page
    assert secret not in page and secret[8:] not in page


def test_the_gateways_figures_are_added_up() -> None:
    found = gateway.summarise(METRICS)
    assert (found["requests"], found["in_flight"], found["engine_ready"]) == (10, 3, True)
    assert found["engine_restarts"] == 2 and [e["ready"] for e in found["engines"].values()] == [True, False]
    assert found["statuses"] == {"200": 9, "503": 1} and found["guard"] == {"blocked by injection": 2}
    assert found["models"]["airline"]["ttft_mean_ms"] == 125 and found["models"]["airline"]["tokens_out"] == 90
    assert found["models"]["airline-base"]["ttft_mean_ms"] is None


def test_figures_come_from_the_real_gateways_exposition() -> None:
    fleet = Fleet(Shared(), (Member("own", "http://127.0.0.1:1", ready=True, models={"airline": Served()}),))
    metrics = Metrics(fleet.shared, fleet, ["pii"])
    metrics.request(0, 200)
    metrics.observe(0, [(TTFT, 0.25), (LATENCY, 1.5), (PROMPT, 70), (GENERATION, 0)])
    metrics.guard("blocked", "pii")
    found = gateway.summarise(metrics.text().decode())
    assert found["models"]["airline"] == {
        "requests": 1,
        "ttft_mean_ms": 250,
        "latency_mean_ms": 1500,
        "tokens_in": 70,
        "tokens_out": 0,
    }
    assert found["guard"] == {"blocked by pii": 1} and found["engine_ready"] is True


def test_a_gateway_that_is_away_is_said_and_the_page_stands(filled: tuple[Store, record.Release, TestClient]) -> None:
    client = TestClient(app(filled[0], "http://127.0.0.1:9/metrics"))
    page = client.get("/live")
    assert page.status_code == 200 and "the gateway does not answer" in page.text and "704.5 ms" in page.text
    assert "the gateway does not answer" in client.get("/").text


class Behind(http.client.HTTPConnection):
    """HTTP over a unix socket, as the gateway's proxy speaks it."""

    def __init__(self, path: str) -> None:
        super().__init__("console", timeout=10)
        self._path = path

    def connect(self) -> None:
        ends = time.monotonic() + 30
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(10)
            try:
                return self.sock.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError):  # it starts
                self.sock.close()
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)


def test_it_runs_as_a_process_on_a_unix_socket_and_ends_on_sigterm(store: Store, tmp_path: Path) -> None:
    fill(store)
    path = str(tmp_path / "c.sock")
    argv = [sys.executable, "-m", "pilothouse.ui.console.serve", "--store", str(store.root), "--socket", path]
    process = subprocess.Popen([*argv, "--metrics", "http://127.0.0.1:9/metrics"], stderr=subprocess.PIPE)
    try:
        connection = Behind(path)
        connection.request("GET", "/releases.json")
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["releases"][0]["id"] == "airline-0011223344"
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    assert b"Traceback" not in said


@pytest.fixture
def site(filled: tuple[Store, record.Release, TestClient]) -> Iterator[tuple[str, record.Release]]:
    """The console on a loopback port, for a browser."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app(filled[0], None), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", filled[1]
    server.should_exit = True
    thread.join(10)


@pytest.mark.browser
def test_a_browser_walks_from_home_to_the_card_and_reads_the_jsons_numbers(
    site: tuple[str, record.Release], filled: tuple[Store, record.Release, TestClient], chromium: str
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    url, release = site
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(url)
        page.locator(f'[data-release="{release.id}"] a').click()
        plain = page.evaluate("fetch(location.pathname + '.json').then(r => r.json())")

        def read() -> None:
            """Verdict, gates and measures as the page has them, against the JSON."""
            assert page.locator("#verdict").get_attribute("data-verdict") == plain["verdict"]
            seen = page.locator("[data-gate]").evaluate_all(
                "rows => rows.map(r => [r.dataset.gate, r.dataset.verdict])"
            )
            assert seen == [[g["name"], g["verdict"]] for g in plain["gates"]]
            for report in plain["reports"].values():
                for m in report.get("measures", []):
                    value = page.locator(f'[data-measure="{m["name"]}"] data').get_attribute("value")
                    assert value is not None and float(value) == m["value"]

        read()
        page.get_by_text("The card as one file").click()
        page.wait_for_url("**/card")
        read()
        keys.add(filled[0], "long-name-of-an-application", budget=1.0, models=("airline", "airline-base"))
        for path in (
            "/",
            "/runs",
            "/live",
            "/assets",
            "/keys",
            f"/releases/{release.id}",
            f"/runs/{release.runs['evaluate']}",
        ):
            page.set_viewport_size({"width": 420, "height": 800})
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 420, path
        assert errors == []
        browser.close()


@pytest.mark.browser
def test_the_live_page_refreshes_by_itself(
    site: tuple[str, record.Release], filled: tuple[Store, record.Release, TestClient], chromium: str
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run"])
        page = browser.new_page()
        page.goto(f"{site[0]}/live")
        assert page.locator("[data-exchange]").count() == 1
        with filled[0].engine.begin() as c:
            row = c.execute(sa.select(schema.exchanges)).mappings().one()
            c.execute(sa.insert(schema.exchanges).values(**{**row, "id": "e2", "at": row["at"] + 1}))
        page.locator('[data-exchange="e2"]').wait_for(timeout=10_000)
        browser.close()


def test_the_consoles_process_ends_with_an_owner_that_is_killed(store: Store) -> None:
    code = f"""
import time
from pathlib import Path
from pilothouse.store.store import Store
from pilothouse.ui.cli.console_process import ConsoleProcess
with ConsoleProcess(Store.open(Path({str(store.root)!r}), create=False), "http://127.0.0.1:9/metrics") as console:
    while not Path(console.socket).exists():
        time.sleep(0.05)
    print(console._process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
