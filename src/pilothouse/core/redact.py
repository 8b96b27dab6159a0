"""Keep secrets out of logs: a log formatter that masks keys, tokens and passwords wherever they appear."""

from __future__ import annotations

import logging
import re

_SECRET = re.compile(
    r"(?i)(\b(?:authorization|x-api-key|api[_-]?key|token|secret|password|passwd)\b[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?)"
    r"([^\s\"',;}]{4,})"
    r"|\b((?:sk|pk|ph|hf|ghp|gho|xoxb|xoxp|glpat)[-_][A-Za-z0-9_\-]{8,})"
    r"|(://[^/\s:@]+:)([^@\s/]+)(@)"
)


def mask(text: str) -> str:
    """`text` with secrets replaced by `***`: header and assignment values, provider keys, passwords in URLs."""

    def swap(m: re.Match[str]) -> str:
        if m.group(2):
            return f"{m.group(1)}***"
        if m.group(3):
            return f"{m.group(3)[:3]}***"
        return f"{m.group(4)}***{m.group(6)}"

    return _SECRET.sub(swap, text)


class RedactingFormatter(logging.Formatter):
    """Masks the finished line of every record, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))
