"""Keys of callers: make, list with this month's usage, change limits, revoke."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pilothouse.ui.cli.stage import JSON, emit

if TYPE_CHECKING:
    from pilothouse.store.keys import Limits
    from pilothouse.store.store import Store

_NONE = "none"


_LIMITS = (
    ("--requests-per-minute", click.IntRange(1), "N", "Requests a minute."),
    ("--tokens-per-minute", click.IntRange(1), "N", "Tokens a minute, of prompts and answers together."),
    ("--concurrency", click.IntRange(1), "N", "Requests at the same time."),
    ("--budget", click.FloatRange(0, min_open=True), "X", "Money a calendar month (UTC), in your prices' currency."),
    ("--models", click.STRING, "A,B", "Only these models (default: all)."),
    ("--expires-days", click.FloatRange(0, min_open=True), "N", "Ends after so many days."),
)


def _limits(*, none: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of `add`; with none, those of `change`: the word none takes a limit away."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, kind, metavar, text in reversed(_LIMITS):
            if none:
                option = click.option(name, metavar=f"{metavar}|{_NONE}", callback=partial(_or_none, kind), help=text)
            else:
                option = click.option(name, type=kind, metavar=metavar, help=text)
            command = option(command)
        return command

    return decorate


def _or_none(kind: Any, ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    return value if value in (None, _NONE) else kind.convert(value, param, ctx)


@click.group("keys", help=__doc__, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """A running gateway follows within two seconds."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("add")
@click.argument("name")
@_limits(none=False)
@JSON
def add(name: str, as_json: bool, **given: Any) -> None:
    """Make a key called NAME. Its secret is printed once and kept nowhere."""
    from pilothouse.store import keys

    made, secret = keys.add(_store(), name, **_asked(given))
    if as_json:
        emit({"key": made.plain(), "secret": secret})
        return
    click.echo(f"key {made.name!r} ({limits_of(made.plain())}); its secret, shown this once:", err=True)
    click.echo(secret)


@command.command("list")
@click.option("--all", "every", is_flag=True, help="Revoked keys too.")
@JSON
def list_(every: bool, as_json: bool) -> None:
    """Every key with its limits and what it used this calendar month (UTC)."""
    from pilothouse.store import keys
    from pilothouse.ui.cli import show

    shown = [k for k in keys.statements(_store()) if every or k["state"] != "revoked"]
    if as_json:
        emit(shown)
    elif shown:
        columns = ("name", "key", "state", "limits", "requests", "tokens", "cost", "budget", "refused", "last seen")
        show.console().print(show.grid("", columns, [_row(k) for k in shown]))
    else:
        click.echo("no keys yet; make one: pilothouse keys add NAME")


@command.command("change")
@click.argument("name")
@_limits(none=True)
@JSON
def change(name: str, as_json: bool, **given: Any) -> None:
    """Set the limits of the key NAME that are given, leave the others; `none` takes a limit away."""
    from pilothouse.store import keys

    changed = keys.change(_store(), name, **_asked(given)).plain()
    emit(changed) if as_json else click.echo(f"key {name!r}: {limits_of(changed)}")


@command.command("revoke")
@click.argument("name")
@JSON
def revoke(name: str, as_json: bool) -> None:
    """End the key NAME for good; its usage stays listed with --all."""
    from pilothouse.store import keys

    ended = keys.revoke(_store(), name).plain()
    emit(ended) if as_json else click.echo(f"key {name!r} ({ended['shown']}) is revoked")


def limits_of(key: dict[str, Any]) -> str:
    """A key's limits in words."""
    words = [
        f"{key[field]:,} {unit}"
        for field, unit in (
            ("requests_per_minute", "req/min"),
            ("tokens_per_minute", "tok/min"),
            ("concurrency", "at once"),
        )
        if key[field] is not None
    ]
    words += [f"{key['budget']:g} a month"] if key["budget"] is not None else []
    words += [f"only {', '.join(key['models'])}"] if key["models"] else []
    words += [time.strftime("until %Y-%m-%d", time.gmtime(key["expires"]))] if key["expires"] else []
    return ", ".join(words) or "no limits"


def _row(key: dict[str, Any]) -> list[str]:
    month = key["month"]
    seen = time.strftime("%m-%d %H:%M", time.gmtime(month["seen"])) if month["seen"] else "–"
    return [
        key["name"],
        key["shown"],
        key["state"],
        limits_of(key),
        f"{month['requests']:,}",
        f"{month['tokens_in']:,} → {month['tokens_out']:,}",
        f"{month['cost']:.4g}",
        "–" if month["share"] is None else f"{month['share']:.1%}",
        f"{month['refused']:,}",
        seen,
    ]


def _asked(given: dict[str, Any]) -> Limits:
    """The options that were given, as the store takes them."""
    asked = {name: None if value == _NONE else value for name, value in given.items() if value is not None}
    if "models" in asked:
        asked["models"] = tuple(re.split(r"\s*,\s*", asked["models"].strip())) if asked["models"] is not None else ()
    if "expires_days" in asked:
        days = asked.pop("expires_days")
        asked["expires"] = None if days is None else time.time() + days * 86_400
    return asked  # type: ignore[return-value]


def _store() -> Store:
    from pilothouse.store.store import Store

    return Store.open(create=False)
