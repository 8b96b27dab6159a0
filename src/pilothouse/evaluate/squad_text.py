"""How SQuAD compares short texts: lower case, no punctuation, no English articles, single spaces.

Rajpurkar et al. 2016 (arXiv:1606.05250); `normalize_answer` of the official evaluation script v1.1. Articles are
English only, as there: in other languages they count as words.
"""

from __future__ import annotations

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as SQuAD compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
