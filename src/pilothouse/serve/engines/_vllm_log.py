"""Why did vLLM end? One line from the end of its log, where several processes pass one error on to each other."""

from __future__ import annotations

import re

# "(EngineCore pid=8) ERROR 11-25 10:08:25 [core.py:1] ValueError: …", or the same at the beginning of a line; of a
# pydantic error the line behind; of argparse what follows "error:".
_ERROR = re.compile(
    r"^(?:\(.*?pid=\d+\) )?(?:ERROR [\d-]+ [\d:]+ \[[^\]]+\] )?"
    r"(?:[\w.]*(?:Error|Exception): ((?!\d+ validation error).+)|  Value error, (.+)|api_server\.py: error: (.+))$",
    re.M,
)
_BANNER = re.compile(r"^.*\bversion \d+\.\d+\.\d+.*$", re.M)
_SERVES = "Application startup complete"
_NEVER_SERVED = "Engine core initialization failed"
_FATAL = "EngineCore encountered a fatal error"
_ECHO = re.compile(
    r"Engine core initialization failed|EngineCore encountered an issue|^Executor failed"
    r"|initialization failed due to an exception in a background process",
    re.I,
)
_DIED = re.compile(r"\bdied unexpectedly|\bEngineDeadError\b|\bExecutor failed\b")
_KILLED = "one of its processes was killed, as the system does when memory runs out"


def reason(log: str) -> str:
    """The last error since the last start that is a cause; '' when there is none.

    Once it served, errors of single requests are in the log too: then only what vLLM calls fatal is a cause, or the
    exception that the log ends with.
    """
    starts = _BANNER.split(log)
    last = starts[-1]
    if _SERVES in last or (len(starts) == 1 and _NEVER_SERVED not in last):  # no banner: it scrolled away long ago
        last = last.rpartition(_SERVES)[2]
        if _FATAL in last:
            last = last.rpartition(_FATAL)[2]
        elif _DIED.search(last):
            return _KILLED
        else:
            last = re.split(r"^.*\b(?:INFO|WARNING)\b.*$", last, flags=re.M)[-1]
    for found in reversed(_ERROR.findall(last)):
        text = " ".join(_inner(found).split())
        if text and not _ECHO.search(text):
            return _sentences(text)
    return _KILLED if _DIED.search(last) else ""


def _inner(groups: tuple[str, ...]) -> str:
    """Without the words of the processes that passed it on, and without pydantic's appendix."""
    text = next(g for g in groups if g)
    if passed := re.search(r"Worker failed with error '(.+)', please check", text):
        text = passed[1]
    return re.sub(r"\s*\[type=\w+, input_value=.*$|^\[Errno \d+\] ", "", text)


def _sentences(text: str, limit: int = 300) -> str:
    """As many whole sentences as fit, at least the beginning of one."""
    if len(text) <= limit:
        return text
    whole = text[:limit].rpartition(". ")[0]
    return f"{whole}." if whole else f"{text[:limit]}…"
