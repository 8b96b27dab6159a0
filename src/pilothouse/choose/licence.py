"""May this licence be used here? SPDX identifiers and the hub's spellings, sorted into four classes."""

from __future__ import annotations

import re
from typing import Literal

from pilothouse.choose.base import Answer

Class = Literal["permissive", "restricted", "non-commercial", "unknown"]

# Permissive: use, change and sell, with notice at most. OSI's approvals and Creative Commons' own words.
_PERMISSIVE = frozenset(
    {
        *("apache-2.0", "mit", "mit-0", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "unlicense", "0bsd", "bsl-1.0"),
        *("cc0-1.0", "cc-by-4.0", "cc-by-3.0", "postgresql", "python-2.0", "odc-by-1.0", "cdla-permissive-2.0"),
    }
)
# Restricted: commercial use under conditions on what one does with it, on who one is, or on derived works.
_RESTRICTED = re.compile(r"llama|gemma|openrail|bigscience|deepseek|tongyi|^qwen$|falcon-llm|gpl|mpl|cc-by(-nd|-sa)")
_NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial|research|mnpl|mrl")
_RANK: tuple[Class, ...] = ("permissive", "restricted", "unknown", "non-commercial")


def classify(licence: str) -> Class:
    """The class of an SPDX expression: of `A OR B` the best, of `A AND B` the worst."""
    text = licence.strip().lower().replace("(", " ").replace(")", " ")
    if " or " in text:
        return min((classify(part) for part in text.split(" or ")), key=_RANK.index)
    if " and " in text:
        return max((classify(part) for part in text.split(" and ")), key=_RANK.index)
    name = text.split(" with ")[0].strip().removeprefix("licenseref-")
    if name in _PERMISSIVE:
        return "permissive"
    if _NON_COMMERCIAL.search(name):
        return "non-commercial"
    return "restricted" if _RESTRICTED.search(name) else "unknown"


def allowed(licence: str, wanted: Literal["permissive", "any"]) -> Answer:
    """Does the licence meet the project's wish? An unstated or unheard-of one is never taken for permissive."""
    if wanted == "any":
        return "yes"
    found = classify(licence)
    return "not known" if found == "unknown" else "yes" if found == "permissive" else "no"
