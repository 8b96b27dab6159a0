"""Policies: actions, failures that never pass, wrong settings that are named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Guard, Rule
from pilothouse.guard.base import Cost, Direction, Exact, Pattern, Span, Window
from pilothouse.guard.policy import CompiledRule, Policy, compile_policy

MAIL, KEY = "anna@example.com", "ghp_" + "a1B2" * 9


def policy(*rules: dict[str, Any]) -> Policy:
    return compile_policy(Guard(rules=tuple(Rule(**r) for r in rules)))


def streamed(compiled: Policy, text: str, size: int = 3) -> tuple[str, Any]:
    stream, out = compiled.output(), ""
    for at in range(0, len(text), size):
        out += stream.feed(text[at : at + size]).text
    return out + stream.finish().text, stream


@dataclass
class Fake:
    """A detector whose behaviour a test sets."""

    does: Callable[[str], Sequence[Span]]
    name: str = "fake"
    cost: Cost = "small"
    directions: tuple[Direction, ...] = ("input", "output")
    owasp: tuple[str, ...] = ()
    stream: Exact | Window = field(default_factory=lambda: Window(64, 8))

    def inspect(self, text: str) -> Sequence[Span]:
        return self.does(text)


def crash(text: str) -> Sequence[Span]:
    raise ZeroDivisionError(len(text))


BROKEN = Exact((Pattern("number", r"\d{3}", right="[0-9]", check=lambda text: len(text) // 0),))


def nothing(_: str) -> Sequence[Span]:
    return []


def with_fake(fake: Fake, **rule: Any) -> Policy:
    return Policy([CompiledRule(0, Rule(detector="fake", **rule), fake)], "no")


def test_redaction_cuts_and_says_by_which_rule() -> None:
    p = policy({"detector": "secrets", "action": "redact"}, {"detector": "pii", "action": "redact"})
    said = p.check_input([f"I am {MAIL}", "hello", f"key {KEY}"])
    assert said.action == "redact"
    assert said.texts == ("I am [EMAIL]", "hello", "key [GITHUB_TOKEN]")
    assert [(f.detector, f.category, f.action, f.note) for f in said.findings] == [
        ("pii", "email", "redact", "rule 2: pii → redact"),
        ("secrets", "github_token", "redact", "rule 1: secrets → redact"),
    ]
    assert all(f.owasp for f in said.findings)
    assert streamed(p, f"I am {MAIL}.")[0] == "I am [EMAIL]."


def test_the_strongest_action_decides_and_names_its_detector() -> None:
    p = policy({"detector": "pii", "action": "flag"}, {"detector": "secrets", "action": "block"})
    assert p.check_input(["nothing here"]).action == "pass"
    flagged = p.check_input([MAIL])
    assert (flagged.action, flagged.detector, flagged.texts) == ("flag", "pii", (MAIL,))
    blocked = p.check_input([MAIL, KEY])
    assert (blocked.action, blocked.detector) == ("block", "secrets")
    assert KEY not in blocked.texts[1]


def test_a_blocking_span_ends_the_stream_and_nothing_of_it_or_after_it_comes_out() -> None:
    p = policy({"detector": "secrets", "action": "block"}, {"detector": "pii", "action": "redact"})
    for size in range(1, 60):
        out, stream = streamed(p, f"mail {MAIL} key {KEY} and more", size)
        assert out == "mail [EMAIL] key "
        assert stream.blocked.category == "github_token"
        assert stream.findings[-1] == stream.blocked
        assert stream.feed("more").text == ""


def test_flagging_an_answer_does_not_delay_it() -> None:
    stream = policy({"detector": "pii", "action": "flag"}).output()
    assert [stream.feed(c).text for c in ("an", "na@example", ".com", " ok")] == ["an", "na@example", ".com", " ok"]
    stream.finish()
    assert [f.category for f in stream.findings] == ["email"]
    assert stream.held == 0


def test_a_flag_does_not_shield_what_another_rule_redacts() -> None:
    p = policy(
        {"detector": "banned", "action": "flag", "options": {"terms": ["call anna"]}},
        {"detector": "pii", "action": "redact"},
    )
    assert streamed(p, f"call {MAIL}!")[0] == "call [EMAIL]!"


def test_rules_of_one_direction_leave_the_other_alone() -> None:
    p = policy({"detector": "pii", "on": ("output",), "action": "redact"})
    assert p.check_input([MAIL]).texts == (MAIL,)
    assert streamed(p, MAIL)[0] == "[EMAIL]"
    assert streamed(policy(), MAIL)[0] == MAIL


def test_the_threshold_decides_what_a_score_does() -> None:
    fake = Fake(lambda text: [Span(0, len(text), "bad", 0.6)])
    assert with_fake(fake, threshold=0.6).check_input(["x"]).action == "block"
    assert with_fake(fake, threshold=0.7).check_input(["x"]).action == "pass"


@pytest.mark.parametrize(("on_error", "action"), [("closed", "block"), ("open", "flag")])
@pytest.mark.parametrize("wanted", ["flag", "block"])
def test_a_crashing_detector_never_counts_as_passed(on_error: str, action: str, wanted: str) -> None:
    p = with_fake(Fake(crash), on_error=on_error, action=wanted)
    said = p.check_input(["anything"])
    assert (said.action, said.unscanned) == (action, ("fake",))
    assert said.findings[0].note.endswith("raised ZeroDivisionError")
    out, stream = streamed(p, "a text of more than one stride, of course")
    assert stream.unscanned == ("fake",)
    assert (stream.blocked is not None) == (on_error == "closed")
    assert out == "a text of more than one stride, of course" or on_error == "closed"


@pytest.mark.parametrize(("on_error", "out"), [("closed", "see "), ("open", "see 123 ok")])
@pytest.mark.parametrize("action", ["block", "redact"])
def test_a_crashing_check_inside_a_stream_blocks_or_is_recorded(on_error: str, out: str, action: str) -> None:
    p = with_fake(Fake(nothing, stream=BROKEN), on_error=on_error, action=action)
    for size in (1, 2, 5, 50):
        shown, stream = streamed(p, "see 123 ok", size)
        assert (shown, stream.unscanned) == (out, ("fake",))
        assert stream.findings[0].category == "error"
    said = p.check_input(["see 123 ok"])
    assert said.unscanned == ("fake",)
    assert said.action == ("block" if on_error == "closed" else "flag")


def test_a_crashing_check_of_a_flagging_rule_that_fails_closed_blocks() -> None:
    p = with_fake(Fake(nothing, stream=BROKEN), on_error="closed", action="flag")
    _, stream = streamed(p, "see 123 ok and more")
    assert stream.blocked is not None
    assert stream.unscanned == ("fake",)


def test_a_slow_model_is_given_up_after_its_timeout() -> None:
    def slow(text: str) -> Sequence[Span]:
        time.sleep(0.4)
        return nothing(text)

    began = time.perf_counter()
    said = with_fake(Fake(slow, cost="model"), timeout_ms=40).check_input(["x"])
    assert time.perf_counter() - began < 0.35
    assert (said.action, said.unscanned) == ("block", ("fake",))
    assert "40 ms" in said.findings[0].note


def test_a_window_sees_what_chunks_cut_and_blocks_the_rest() -> None:
    fake = Fake(
        lambda t: [Span(t.index("evil plan"), t.index("evil plan") + 9, "bad", 1.0)] if "evil plan" in t else []
    )
    text = "x" * 100 + " an evil plan " + "y" * 100
    out, stream = streamed(with_fake(fake), text)
    assert stream.blocked is not None
    assert (stream.blocked.start, stream.blocked.end) == (104, 113)
    assert len(out) < len(text) - 80
    flagged, noted = streamed(with_fake(fake, action="flag"), text)
    assert flagged == text
    assert [f.start for f in noted.findings] == [104]


def test_a_short_answer_is_inspected_at_its_end() -> None:
    fake = Fake(lambda t: [Span(0, 3, "bad", 1.0)] if "bad" in t else [])
    _, stream = streamed(with_fake(fake), "bad", 1)
    assert stream.blocked is not None


def test_wrong_settings_are_named_with_their_place() -> None:
    with pytest.raises(UserError, match=r"guard.rules\[0\].detector: no detector is called 'secret'.*'secrets'"):
        policy({"detector": "secret"})
    with pytest.raises(UserError, match=r"guard.rules\[0\].action: .*cannot redact"):
        policy({"detector": "injection", "action": "redact"})
    with pytest.raises(UserError, match=r"guard.rules\[1\]: detector 'pii' does not take these options: unknown kind"):
        policy({"detector": "secrets"}, {"detector": "pii", "options": {"kinds": ["face"]}})
    with pytest.raises(UserError, match=r"does not take these options.*colour"):
        policy({"detector": "pii", "options": {"colour": "red"}})
    with pytest.raises(UserError, match="'terms' is empty"):
        policy({"detector": "banned"})


def test_terms_may_stand_in_a_file_beside_the_project(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("project heron\n\nCANARY-42\n", encoding="utf-8")
    rule = Rule(detector="banned", action="redact", options={"terms": "file:terms.txt"})
    p = compile_policy(Guard(rules=(rule,)), folder=tmp_path)
    assert streamed(p, "about Project\n Heron: canary-42, canary-421")[0] == "about [BANNED]: [BANNED], canary-421"
    gone = Rule(detector="banned", options={"terms": "file:gone.txt"})
    with pytest.raises(UserError, match=r"guard.rules\[0\].options.terms: 'file:gone.txt' cannot be read"):
        compile_policy(Guard(rules=(gone,)), folder=tmp_path)
