"""Credentials: keys of known providers by shape, private key blocks, tokens, values assigned to telling names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable

from pilothouse.guard.base import Pattern
from pilothouse.guard.stream import PatternDetector

_WORD = "[A-Za-z0-9_-]"
_ALNUM = "[A-Za-z0-9]"

# category → (what proves it, the characters that may follow and belong to it). Shapes as the providers document them;
# the proof is kept short, so that little is held, and the tail takes the rest.
SHAPES: dict[str, tuple[str, str]] = {
    "anthropic_key": (rf"sk-ant-[a-z]{{3,8}}\d{{2}}-{_WORD}{{10}}", _WORD),
    "aws_access_key": (r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}", ""),
    "azure_sas": (r"[?&]sig=[A-Za-z0-9%]{40,60}", "[A-Za-z0-9%]"),
    "databricks_token": (r"dapi[a-f0-9]{32}", "[a-f0-9-]"),
    "digitalocean_token": (r"do[opr]_v1_[a-f0-9]{32}", "[a-f0-9]"),
    "github_token": (rf"gh[pousr]_{_ALNUM}{{30}}", _ALNUM),
    "github_pat": (r"github_pat_[A-Za-z0-9_]{30}", "[A-Za-z0-9_]"),
    "gitlab_token": (rf"gl(?:pat|dt|rt|cbt|ptt|ft)-{_WORD}{{20}}", _WORD),
    "google_api_key": (rf"AIza{_WORD}{{30}}", _WORD),
    "google_oauth_token": (rf"ya29\.{_WORD}{{20}}", "[A-Za-z0-9_.-]"),
    "google_client_secret": (rf"GOCSPX-{_WORD}{{20}}", _WORD),
    "groq_key": (rf"gsk_{_ALNUM}{{20}}", _ALNUM),
    "huggingface_token": (rf"hf_{_ALNUM}{{20}}", _ALNUM),
    "npm_token": (rf"npm_{_ALNUM}{{30}}", _ALNUM),
    "openai_project_key": (rf"sk-(?:proj|svcacct|admin|or-v1|lf)-{_WORD}{{16}}", _WORD),
    "pypi_token": (rf"pypi-AgE{_WORD}{{20}}", _WORD),
    "sendgrid_key": (rf"SG\.{_WORD}{{16,24}}\.{_WORD}{{20}}", _WORD),
    "shopify_token": (r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{20}", "[a-fA-F0-9]"),
    "slack_token": (rf"xox[abeprs](?:\.xox[bp])?-{_WORD}{{10}}", _WORD),
    "slack_webhook": (r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{18}", "[A-Za-z0-9/]"),
    "stripe_key": (rf"(?:sk|rk|pk)_(?:live|test)_{_ALNUM}{{16}}", _ALNUM),
    "stripe_webhook": (rf"whsec_{_ALNUM}{{20}}", "[A-Za-z0-9+/=]"),
    "telegram_token": (r"\d{8,10}:AA[A-Za-z0-9_-]{31}", _WORD),
    "jwt": (r"eyJ[A-Za-z0-9_-]{10,200}\.eyJ[A-Za-z0-9_-]{4}", "[A-Za-z0-9_.-]"),
    "bearer_token": (r"[Bb]earer ([A-Za-z0-9._~+/-]{20})", "[A-Za-z0-9._~+/=-]"),
}

_NAMES = (
    r"(?:[Pp](?i:assword|asswd|assphrase|wd|rivate[_ -]?key)|[Ss](?i:ecret)|[Tt](?i:oken)|[Cc](?i:redential)"
    r"|[Aa](?i:pi[_ -]?key|ccess[_ -]?key|ccount[_-]?key|uth[_-]?key))"
)
_GIVES = r"[\w-]{0,24}[\"'`*]{0,3}(?:\s{0,3}(?::=|=>|=|:)|\s{1,3}is:?)\s{0,3}[\"'`*]{0,3}"
LONGEST = 80
_VALUE = r"[^\s\"'`,;<>(){}\[\]]"


def create(
    kinds: Iterable[str] | None = None, *, assignments: bool = True, min_entropy: float = 2.75
) -> PatternDetector:
    """kinds: which provider shapes (all). assignments: `password = …` too, if the value looks random enough.

    min_entropy: bits a character of the value, by its own letter counts (8 different characters have 3).
    """
    wanted = tuple(SHAPES) if kinds is None else tuple(kinds)
    if unknown := [k for k in wanted if k not in SHAPES]:
        raise ValueError(f"unknown kind {unknown[0]!r}; known: {', '.join(SHAPES)}")
    patterns = [Pattern(kind, SHAPES[kind][0], left=_ALNUM, tail=SHAPES[kind][1]) for kind in wanted]
    if "openai_project_key" in wanted:
        # Old keys are `sk-` and letters and digits alone, as are some class names: ask for a mixture.
        patterns.append(Pattern("openai_key", rf"sk-{_ALNUM}{{20}}", left=_WORD, tail=_ALNUM, check=_mixed))
    patterns.append(
        Pattern(
            "private_key",
            r"-----BEGIN[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
            until=r"-----END[A-Z0-9 ]{0,40}-----",
        )
    )
    # Basic credentials in a URL: the scheme's `://`, a user, and the password.
    patterns.append(Pattern("url_password", r"://[^\s:@/]{0,40}:([^\s@/]{3,80})@"))
    if assignments:
        source = rf"{_NAMES}{_GIVES}({_VALUE}{{8,{LONGEST}}})"
        patterns.append(Pattern("secret", source, left=_ALNUM, check=assigned(min_entropy), tail=_VALUE))
    return PatternDetector("secrets", tuple(patterns), ("LLM02:2025",))


def _mixed(text: str) -> int:
    kinds = sum(bool(re.search(c, text[3:])) for c in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(text) if kinds >= 2 else 0


def entropy(text: str) -> float:
    """Shannon's entropy of the text's own characters, bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def assigned(min_entropy: float) -> Callable[[str], int]:
    """Does a value look like a secret? A digit, a letter, and enough different characters; not a word, not a path."""

    def check(value: str) -> int:
        kept = value.rstrip(".:!?*") if len(value) < LONGEST else value
        plausible = any(c.isdigit() for c in kept) and any(c.isalpha() for c in kept) and len(kept) >= 8
        return len(kept) if plausible and entropy(kept) >= min_entropy and "://" not in kept else 0

    return check
