"""Which exact personal data a text holds (e-mail, IBAN, payment card, phone), and the text with placeholders instead.

Only forms with a check of their own are touched (check digits, numbering plans), so a booking reference or an order
number stays. Names and addresses need a model and are not looked for here; the guard is another matter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from pilothouse.core.messages import Message, Row

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b")
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}")
_IBAN_REST = re.compile(r"(?:[ ]?[A-Za-z0-9]){11,30}")
_CARD_START = re.compile(r"(?<![\w])[2-6](?=\d{3})")
_CARD_REST = re.compile(r"(?:[ -]?\d){11,18}")
# Issuers' ranges and lengths (ISO/IEC 7812 numbers as assigned): Visa, Mastercard, American Express, Diners Club,
# JCB, Discover and UnionPay, Maestro. Luhn alone lets one in ten digit runs through.
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11,16}|35\d{14,17}|6[0245]\d{14,17}|(?:5[06-8]|6[37])\d{10,17}"
)

Span = tuple[int, int, str]


def spans(text: str) -> list[Span]:
    """(start, end, kind) of what was found, in order, without overlaps; earlier kinds win."""
    found: list[Span] = []
    for kind, finder in _FINDERS.items():
        for start, end in finder(text):
            if all(end <= a or start >= b for a, b, _ in found):
                found.append((start, end, kind))
    return sorted(found)


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with [EMAIL], [IBAN], [CARD], [PHONE] instead of what was found, and how many of each."""
    parts, at, counts = [], 0, Counter[str]()
    for start, end, kind in spans(text):
        parts += [text[at:start], f"[{kind.upper()}]"]
        counts[kind] += 1
        at = end
    return "".join([*parts, text[at:]]), counts


def scrub_row(row: Row) -> tuple[Row, Counter[str]]:
    """The row with messages and answer scrubbed: a value copied from question to answer stays equal in both."""
    total, messages = Counter[str](), []
    for message in row.messages:
        text, counts = scrub(message.content)
        total += counts
        messages.append(Message(message.role, text))
    answer, counts = scrub(row.answer)
    total += counts
    return (msgspec.structs.replace(row, messages=tuple(messages), answer=answer) if total else row), total


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (m.span() for m in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    from stdnum import iban

    # ISO 13616: country, two check digits, then up to 30 characters whose length the country sets.
    return _longest(text, _IBAN_START, _IBAN_REST, iban.is_valid)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    from stdnum import luhn

    def valid(candidate: str) -> bool:
        digits = re.sub(r"[ -]", "", candidate)
        return _ISSUED.fullmatch(digits) is not None and luhn.is_valid(digits)

    return _longest(text, _CARD_START, _CARD_REST, valid)


def _phones(text: str) -> Iterator[tuple[int, int]]:
    if "+" not in text and "\uff0b" not in text:  # numbers without a country code are not told from order numbers
        return
    from phonenumbers import PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, None):
        yield match.start, match.end


def _longest(
    text: str, start: re.Pattern[str], rest: re.Pattern[str], valid: Callable[[str], bool]
) -> Iterator[tuple[int, int]]:
    """At each start, the longest candidate that ends at a word's end and is valid: words after a number are left."""
    at = 0
    while head := start.search(text, at):
        at = head.end()
        tail = rest.match(text, head.end())
        end = tail.end() if tail else 0
        while end > head.end():
            whole = end == len(text) or not text[end].isalnum()
            if whole and valid(text[head.start() : end]):
                yield head.start(), end
                at = end
                break
            end -= 1


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "phone": _phones,
}
