"""Credentials: every documented shape is found, ordinary prose and code are not."""

from __future__ import annotations

import random
import re

import pytest

from pilothouse.guard import plants
from pilothouse.guard.detectors import secrets
from pilothouse.guard.stream import compile_program, redact

DETECTOR = secrets.create()
PROGRAM = compile_program([(DETECTOR.patterns, False, True)])


def cleaned(text: str) -> str:
    assert PROGRAM is not None
    return redact(PROGRAM, text)[0]


@pytest.mark.parametrize(
    "kind", sorted(set(plants.MAKERS) - {"email", "phone", "card", "iban", "ip", "us_ssn", "secret"})
)
def test_a_key_is_replaced_whole_and_the_rest_stays(kind: str) -> None:
    rng = random.Random(5)
    for _ in range(20):
        assert cleaned(f"use {plants.MAKERS[kind](rng)} for it") == f"use [{kind.upper()}] for it"


@pytest.mark.parametrize("kind", sorted(secrets.SHAPES))
def test_every_shape_compiles_alone_and_is_bounded(kind: str) -> None:
    assert compile_program([(secrets.create([kind], assignments=False).patterns, False, True)]) is not None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("password: hunter2x!", "password: [SECRET]!"),
        ('{"api_key": "9f8e7d6c5b4a3210"}', '{"api_key": "[SECRET]"}'),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AWS_SECRET_ACCESS_KEY=[SECRET]"),
        ("the api key is zX81kPq02mNv.", "the api key is [SECRET]."),
        ("postgres://app:s3cr3t@db/x", "postgres://app:[URL_PASSWORD]@db/x"),
        ("Authorization: Bearer abcDEF1234567890abcdef99", "Authorization: Bearer [BEARER_TOKEN]"),
    ],
)
def test_only_the_value_is_cut_from_an_assignment(text: str, kept: str) -> None:
    assert cleaned(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Your password is required at every login.",
        "token: authentication is explained below",
        "class sk-toggleable-content sk-estimator",
        "secret = os.environ.get('SECRET')",
        "The private key stays private. Tokenization splits words.",
        "see https://example.com/path?x=1 and mailto:me",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    ],
)
def test_prose_and_code_without_secrets_stay(text: str) -> None:
    assert cleaned(text) == text


def test_entropy_is_shannons() -> None:
    assert secrets.entropy("aaaa") == 0
    assert secrets.entropy("abcdefgh") == pytest.approx(3)
    assert secrets.entropy("aab") == pytest.approx(0.9183, abs=1e-4)


def test_a_key_block_is_cut_to_its_end_line() -> None:
    block = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXk\n" * 50 + "-----END OPENSSH PRIVATE KEY-----"
    assert cleaned(f"key:\n{block}\nkeep it") == "key:\n[PRIVATE_KEY]\nkeep it"
    public = re.sub("PRIVATE", "PUBLIC", block)
    assert cleaned(public) == public
