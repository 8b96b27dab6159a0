"""Personal data with a shape: e-mail, phone, card, IBAN, IP address, national numbers; checksums where they exist.

Names, addresses and dates of birth have no shape that could be matched exactly; this detector does not claim them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice

from pilothouse.guard.base import Pattern
from pilothouse.guard.stream import PatternDetector

DEFAULT = ("email", "phone", "card", "iban", "ip", "us_ssn")

# category → (pattern, module of python-stdnum that decides). All fixed shapes with a check digit, but for us_ssn (rules
# on areas and groups only).
NATIONAL = {
    "us_ssn": (r"\d{3}[- ]\d{2}[- ]\d{4}", "stdnum.us.ssn"),
    "br_cpf": (r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}", "stdnum.br.cpf"),
    "de_idnr": (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "stdnum.de.idnr"),
    "es_dni": (r"\d{8}[- ]?[A-Za-z]", "stdnum.es.dni"),
    "fr_nir": (r"[12378] ?\d{2} ?\d{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}", "stdnum.fr.nir"),
    "gb_nhs": (r"\d{3}[ -]?\d{3}[ -]?\d{4}", "stdnum.gb.nhs"),
    "in_aadhaar": (r"\d{4}[ -]?\d{4}[ -]?\d{4}", "stdnum.in_.aadhaar"),
    "it_codicefiscale": (r"[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]", "stdnum.it.codicefiscale"),
    "nl_bsn": (r"\d{9}", "stdnum.nl.bsn"),
    "pl_pesel": (r"\d{11}", "stdnum.pl.pesel"),
}
KINDS = ("email", "phone", "card", "iban", "ip", *NATIONAL)

# Issuer ranges (ISO/IEC 7812 assignments as the schemes publish them); Luhn alone lets 1 in 10 numbers through.
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35\d{14}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}|(?:50|5[6-9]|6\d)\d{10,17}"
)
_LOCAL = "A-Za-z0-9À-ɏ_.%+'-"


def create(kinds: Iterable[str] = DEFAULT, *, regions: Iterable[str] = ("US",)) -> PatternDetector:
    """kinds: which of KINDS. regions: countries whose phone numbers count without `+` and country code."""
    wanted = tuple(kinds)
    if unknown := [k for k in wanted if k not in KINDS]:
        raise ValueError(f"unknown kind {unknown[0]!r}; known: {', '.join(KINDS)}")
    patterns = tuple(p for kind in wanted for p in _patterns(kind, tuple(regions)))
    return PatternDetector("pii", patterns, ("LLM02:2025",))


def _patterns(kind: str, regions: tuple[str, ...]) -> Iterator[Pattern]:
    if kind == "email":
        # RFC 5321's 64 characters before the @; labels short enough for the hold cap.
        domain = r"[\w-]{1,63}(?:\.[\w-]{1,30}){0,3}\.(?:[A-Za-z]{2,18}|xn--[A-Za-z0-9-]{2,14}|[а-яё]{2,18})"
        yield Pattern("email", rf"[{_LOCAL}]{{1,64}}@{domain}", left=f"[{_LOCAL}]", right="[A-Za-z0-9]")
    elif kind == "phone":
        source = r"(?:\+|\()?\d(?:[ \u00a0\u2010-\u2013.()/-]{0,3}\d){6,17}"
        yield Pattern("phone", source, left=r"[\w+]", right="[0-9]", check=phone_check(regions))
    elif kind == "card":
        yield Pattern("card", r"[2-6](?:[ \u00a0.-]?\d){11,18}", left="[0-9]", right="[0-9]", check=card_check())
    elif kind == "iban":
        source = r"[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}"
        yield Pattern("iban", source, left="[A-Za-z0-9]", right="[A-Za-z0-9]", check=iban_check())
    elif kind == "ip":
        yield Pattern("ip", r"\d{1,3}(?:\.\d{1,3}){3}", left=r"[\w.]", right=r"\w", check=_address)
        v6 = r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}"  # one colon more: the check takes it off
        yield Pattern("ip", v6, left=r"[\w:.]", right=r"[\w:]", check=_address)
    else:
        source, module = NATIONAL[kind]
        valid: Callable[[str], bool] = import_module(module).is_valid
        yield Pattern(kind, source, left=r"\w", right=r"\w", check=lambda text: len(text) if valid(text) else 0)


def _groups(text: str, most: int) -> tuple[list[str], list[int]]:
    """The first `most` runs of digits, and where each ends."""
    found = list(islice(re.finditer(r"\d+", text), most))
    return [m[0] for m in found], [m.end() for m in found]


def card_check() -> Callable[[str], int]:
    """The longest beginning that is a card number: issuer range, length and Luhn's digit."""
    from stdnum import luhn

    def check(text: str) -> int:
        groups, ends = _groups(text, 19)
        sizes = [len(g) for g in groups]
        if sizes[0] < 4:
            # Not grouped as on cards (4-4-4-4, 4-6-5): digit by digit or in pairs still counts, `2 3 … 10 11` does not.
            same = next((i for i, size in enumerate(sizes) if size != sizes[0]), len(sizes))
            groups = groups[:same] if sizes[0] <= 2 else []
        else:
            short = next((i for i, size in enumerate(sizes) if size < 4), len(sizes))
            groups = groups[: short + 1]
        digits = "".join(groups)
        for count in range(len(groups), 0, -1):
            if len(digits) < 12:
                break
            if _CARD.fullmatch(digits) and luhn.is_valid(digits):
                return ends[count - 1]
            digits = digits[: len(digits) - len(groups[count - 1])]
        return 0

    return check


def iban_check() -> Callable[[str], int]:
    """The longest beginning that is an IBAN: country, length, national structure and ISO 7064 digits."""
    from stdnum import iban

    def check(text: str) -> int:
        for end in (len(text), *(m.start() for m in reversed(list(re.finditer(" ", text))))):
            code = text[:end].replace(" ", "").upper()
            # ISO 7064 mod 97-10 first: it is cheap and settles nearly all. isascii: \d also means other scripts.
            if (
                code.isascii()
                and int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1
                and iban.is_valid(code)
            ):
                return end
        return 0

    return check


def phone_check(regions: tuple[str, ...]) -> Callable[[str], int]:
    """The longest beginning that is a phone number: with `+` a valid one; else valid in a region and written as there.

    How it is written matters: 2026-11-23 10 is ten digits of a valid US number, grouped as nobody groups one.
    """
    from phonenumbers import PhoneMetadata, is_valid_number, parse
    from phonenumbers.phonenumberutil import NumberParseException

    shapes: list[tuple[str, re.Pattern[str]]] = []
    for region in regions:
        data = PhoneMetadata.metadata_for_region(region)
        if data is None or data.general_desc is None:
            raise ValueError(f"unknown phone region {region!r}; use two-letter country codes such as 'US'")
        # Necessary conditions that cost a hundredth of parsing: a long list of numbers must not stall the stream.
        number = data.general_desc.national_number_pattern
        trunk = "1?" if data.country_code == 1 else data.national_prefix or ""
        shapes.append((region, re.compile(f"{trunk}(?:{number})")))

    def valid(text: str, region: str | None) -> bool:
        try:
            return is_valid_number(parse(text, region))
        except NumberParseException:
            return False

    def check(text: str) -> int:
        groups, ends = _groups(text, 6)
        for count in range(len(groups), 0, -1):
            digits, end = "".join(groups[:count]), ends[count - 1]
            if not 7 <= len(digits) <= 16:
                continue
            if text[0] == "+":
                if valid(text[:end], None):
                    return end
                continue
            for region, shape in shapes:
                if _written(groups[:count], shape) and shape.fullmatch(digits) and valid(digits, region):
                    return end
        return 0

    return check


def _written(groups: list[str], shape: re.Pattern[str]) -> bool:
    """North American numbers as 3-3-4 or in fewer groups, the 1 apart or not; elsewhere in groups of two or more."""
    if not shape.pattern.startswith("1?"):
        return len(groups) <= 5 and min(map(len, groups)) >= 2
    sizes = [len(g) for g in groups]
    if len(sizes) > 1 and groups[0] == "1":
        sizes = sizes[1:]
    return sizes in ([10], [11], [3, 7], [6, 4], [3, 3, 4])


def _address(text: str) -> int:
    """An IP address that is somebody's: not loopback, not all zeros, and not C++ (`a::b` has no digit)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _address(text[:-1]) if text.endswith(":") else 0  # a colon of the sentence
    if address.is_loopback or address.is_unspecified or (":" in text and sum(c.isalnum() for c in text) < 4):
        return 0
    return len(text) if any(c.isdigit() for c in text) else 0
