"""`pilothouse keys`: the secret once on stdout, lists with usage, limits set and taken away, mistakes in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pilothouse.core.digest import of_secret
from pilothouse.core.errors import UserError
from pilothouse.store import keys
from pilothouse.store.keys import Usage
from pilothouse.store.store import Store
from pilothouse.ui.cli.main import cli


def run(store: Store, *args: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *args], env={"PILOTHOUSE_HOME": str(store.root)})


def said(store: Store, *args: str) -> Any:
    done = run(store, *args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_add_prints_the_secret_alone_on_stdout_and_what_it_may_beside(store: Store) -> None:
    done = run(store, "add", "app", "--requests-per-minute", "60", "--budget", "12.5", "--models", "airline, base")
    assert done.exit_code == 0
    (secret,) = done.stdout.splitlines()
    (key,) = keys.listed(store)
    assert of_secret(secret) == key.digest and secret not in done.stderr
    assert (key.requests_per_minute, key.budget, key.models) == (60, 12.5, ("airline", "base"))
    assert "60 req/min, 12.5 a month, only airline, base" in done.stderr and "this once" in done.stderr
    listed = run(store, "list").output + json.dumps(said(store, "list", "--all"))
    assert key.shown in listed and secret not in listed and key.digest not in listed


def test_json_has_the_secret_of_a_new_key_and_never_a_digest(store: Store) -> None:
    made = said(store, "add", "app", "--expires-days", "0.5")
    assert of_secret(made["secret"]) == keys.listed(store)[0].digest and "digest" not in made["key"]
    assert made["key"]["expires"] == pytest.approx(time.time() + 43_200, abs=60) and made["key"]["state"] == "live"
    for args in (["change", "app", "--concurrency", "2"], ["list"], ["revoke", "app"], ["list", "--all"]):
        assert "digest" not in run(store, *args, "--json").stdout


def test_list_shows_this_months_usage_and_the_share_of_the_budget(store: Store) -> None:
    key, _ = keys.add(store, "app", budget=10.0)
    now = time.time()
    keys.add_usage(store, [Usage(key.id, keys.today(now), 1200, 34_000, 5_600, 2.5, 7, now)])
    keys.add_usage(store, [Usage(key.id, "2020-01-01", 9, 9, 9, 9.0, 9, 1.0)])
    (row,) = said(store, "list")
    assert row["month"] == {
        "since": keys.month(now),
        "requests": 1200,
        "tokens_in": 34_000,
        "tokens_out": 5_600,
        "cost": 2.5,
        "refused": 7,
        "seen": now,
        "share": 0.25,
    }
    table = " ".join(run(store, "list").output.split())
    for text in ("app", key.shown, "1,200", "34,000 → 5,600", "2.5", "25.0%", " 7 "):
        assert text in table


def test_change_sets_what_is_given_and_none_takes_it_away(store: Store) -> None:
    keys.add(store, "app", requests_per_minute=60, models=("a",), budget=1.0, expires=time.time() + 60)
    changed = said(store, "change", "app", "--requests-per-minute", "none", "--concurrency", "3", "--models", "none")
    assert (changed["requests_per_minute"], changed["concurrency"], changed["models"]) == (None, 3, [])
    assert changed["budget"] == 1.0 and changed["expires"] is not None
    assert said(store, "change", "app", "--expires-days", "none", "--budget", "none")["expires"] is None
    assert "3 at once" in run(store, "change", "app", "--concurrency", "3").output


def test_a_revoked_key_leaves_the_list_but_not_the_books(store: Store) -> None:
    keys.add(store, "app")
    assert "is revoked" in run(store, "revoke", "app").output
    assert said(store, "list") == [] and "no keys yet" in run(store, "list").output
    assert [k["state"] for k in said(store, "list", "--all")] == ["revoked"]


def test_without_a_word_it_says_what_it_can_do(store: Store) -> None:
    done = run(store)
    assert done.exit_code == 0 and all(f"  {word} " in done.output for word in ("add", "list", "change", "revoke"))


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["add", "app"], "there is a key called 'app' already"),
        (["add", "two words"], "is no name for a key"),
        (["add", "b", "--models", "a,,b"], "a model's name is empty"),
        (["change", "ap", "--concurrency", "1"], "Did you mean 'app'"),
        (["change", "app"], "nothing to change"),
        (["revoke", "nobody"], "no key is called 'nobody'"),
    ],
)
def test_a_mistake_is_a_user_error(args: list[str], what: str, store: Store) -> None:
    keys.add(store, "app")
    error = run(store, *args).exception
    assert isinstance(error, UserError) and what in error.line() and "\n" not in error.line()


@pytest.mark.parametrize(
    "args",
    [
        ["add", "b", "--concurrency", "0"],
        ["add", "b", "--budget", "0"],
        ["add", "b", "--requests-per-minute", "none"],
        ["change", "app", "--tokens-per-minute", "many"],
        ["change", "app", "--expires-days", "-1"],
    ],
)
def test_a_limit_that_is_no_limit_is_a_usage_error_and_changes_nothing(args: list[str], store: Store) -> None:
    keys.add(store, "app")
    before = keys.version(store)
    done = run(store, *args)
    assert done.exit_code == 2 and "Invalid value" in done.stderr and keys.version(store) == before


def test_no_store_is_no_place_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path / "nowhere"))
    error = CliRunner().invoke(cli, ["keys", "add", "app"]).exception
    assert isinstance(error, UserError) and "no Pilothouse store here" in error.line()
    assert not (tmp_path / "nowhere").exists()
