"""No secret passes into a log."""

import logging
import sys

import pytest

from pilothouse.core.redact import RedactingFormatter, mask

SECRET = "s3cr3tVALUE0123456789"


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"x-api-key={SECRET}",
        f"password: {SECRET}",
        f"using sk-{SECRET} now",
        f"hf_{SECRET}",
        f"postgresql://me:{SECRET}@db/x",
    ],
)
def test_secrets_are_masked_wherever_they_stand(line: str) -> None:
    assert SECRET not in mask(line)


def test_plain_text_is_left_as_it_is() -> None:
    line = "loss 0.41 at step 20, http://127.0.0.1:8080/v1/models, 12 tokens"
    assert mask(line) == line


def test_arguments_and_tracebacks_are_masked_too() -> None:
    try:
        raise RuntimeError(f"token={SECRET}")
    except RuntimeError:
        failure = sys.exc_info()
    record = logging.LogRecord("x", logging.INFO, "f", 1, "header %s", (f"authorization: {SECRET}",), failure)
    line = RedactingFormatter().format(record)
    assert "RuntimeError" in line and SECRET not in line
