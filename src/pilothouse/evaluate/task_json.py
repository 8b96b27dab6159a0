"""Which JSON object is in an answer? Model answers may carry text round it; intents and slots are read from it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def whole_object(text: str) -> dict[str, Any] | None:
    """The answer as a JSON object when it is nothing else (RFC 8259: no NaN, no Infinity; white space round it)."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object that starts anywhere in the text, or None. Code fences and talk round it are allowed."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    at = text.find("{")
    while at >= 0:
        try:
            value, _ = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def plain_value(value: Any) -> str:
    """A slot's value as compared: JSON text for numbers and booleans, strings trimmed, single-spaced, case-folded."""
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    return json.dumps(value, ensure_ascii=False, sort_keys=True).casefold()


def slot_pairs(slots: Any) -> Counter[tuple[str, str]]:
    """Name–value pairs of a `slots` object as a multiset: a list gives one pair an item; null means not filled."""
    pairs: Counter[tuple[str, str]] = Counter()
    if not isinstance(slots, dict):
        return pairs
    for name, value in slots.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs[(str(name), plain_value(item))] += 1
    return pairs


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
