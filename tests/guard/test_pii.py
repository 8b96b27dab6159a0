"""Personal data: what the numbers' own authorities call valid is found, what they call invalid is not."""

from __future__ import annotations

import ipaddress

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import iban, luhn

from pilothouse.guard.detectors import pii

DETECTOR = pii.create()
digits = st.text("0123456789", min_size=14, max_size=14)


def found(text: str, *, detector: pii.PatternDetector = DETECTOR) -> list[tuple[str, str]]:
    return [(s.category, text[s.start : s.end]) for s in detector.inspect(text)]


@settings(max_examples=300, deadline=None)
@given(digits, st.integers(0, 9), st.sampled_from(["", " ", "-"]))
def test_a_visa_number_is_found_exactly_if_luhn_holds(body: str, last: int, gap: str) -> None:
    number = f"4{body}{last}"
    text = "pay with " + gap.join(number[i : i + 4] for i in range(0, 16, 4)) + " please"
    cards = [value for category, value in found(text) if category == "card"]
    whole = gap.join(number[i : i + 4] for i in range(0, 16, 4))
    assert (whole in cards) == luhn.is_valid(number)


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789", min_size=18, max_size=18), st.integers(2, 98))
def test_a_german_iban_is_found_exactly_if_its_digits_check(account: str, check: int) -> None:
    number = f"DE{check:02d}{account}"
    right = number[:2] + iban.calc_check_digits(number) + account
    assert ("iban", right) in found(f"to {right}.")
    spaced = " ".join(right[i : i + 4] for i in range(0, 22, 4))
    assert ("iban", spaced) in found(f"to {spaced} by Monday")
    assert (("iban", number) in found(f"to {number}.")) == iban.is_valid(number)


@settings(max_examples=200, deadline=None)
@given(st.integers(200, 999), st.integers(200, 999), st.integers(0, 9999))
def test_a_us_number_is_found_exactly_if_phonenumbers_calls_it_valid(area: int, office: int, line: int) -> None:
    valid = phonenumbers.is_valid_number(phonenumbers.parse(f"{area}{office}{line:04d}", "US"))
    for text in (f"({area}) {office}-{line:04d}", f"{area}-{office}-{line:04d}", f"+1 {area} {office} {line:04d}"):
        assert (("phone", text) in found(f"call {text} now")) == valid, text


@pytest.mark.parametrize(
    ("text", "regions"),
    [("020 7946 0958", ("GB",)), ("01 42 68 53 00", ("FR",)), ("+49 30 123456", ()), ("+33 1 42 68 53 00", ("US",))],
)
def test_numbers_of_other_countries_are_found_by_region_or_code(text: str, regions: tuple[str, ...]) -> None:
    detector = pii.create(["phone"], regions=regions)
    assert found(f"call {text}, please", detector=detector) == [("phone", text)]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_are_found_unless_they_are_nobodys(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = str(address)
    assert (("ip", text) in found(f"from {text}: refused")) == (
        not address.is_loopback
        and not address.is_unspecified
        and (":" not in text or sum(c.isalnum() for c in text) >= 4)
        and any(c.isdigit() for c in text)
    )


@pytest.mark.parametrize(
    "mail",
    ["a@b.co", "maria.lopez+trip@mail.example.co.uk", "o'brien@büro-nord.de", "x_1%y@a-b.museum", "ivan@почта.рф"],
)
def test_mail_addresses_are_found_whole(mail: str) -> None:
    assert found(f"write to {mail}. Thanks") == [("email", mail)]
    assert found(f"<{mail}>,或者") == [("email", mail)]


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-23 10:30, or 2026-11-23 11",
        "flight PH 2041, ticket 0162345678901, booking QX7P2M",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "std::vector a::b at 10:30:45, version 1.2.3, 127.0.0.1, ::1",
        "order 1234567890, 45.50 euros, 23 kg, @home, me@here",
        "078-05-1120",  # a number the US authority calls void
    ],
)
def test_what_only_looks_like_personal_data_is_left(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("us_ssn", "536-90-4399", "666-90-4399"),
        ("br_cpf", "390.533.447-05", "390.533.447-06"),
        ("es_dni", "54362315K", "54362315L"),
        ("nl_bsn", "111222333", "111222334"),
        ("pl_pesel", "44051401359", "44051401358"),
        ("gb_nhs", "943 476 5870", "943 476 5871"),
        ("de_idnr", "36 574 261 809", "36 574 261 808"),
        ("in_aadhaar", "2341 2341 2346", "2341 2341 2347"),
        ("it_codicefiscale", "RCCMNL83S18D969H", "RCCMNL83S18D969I"),
        ("fr_nir", "2 95 10 99 126 111 93", "2 95 10 99 126 111 94"),
    ],
)
def test_national_numbers_follow_their_check_digits(kind: str, good: str, bad: str) -> None:
    detector = pii.create([kind])
    assert found(f"no. {good}, ok", detector=detector) == [(kind, good)]
    assert found(f"no. {bad}, ok", detector=detector) == []


def test_a_card_is_cut_out_of_the_numbers_around_it() -> None:
    text = "4111 1111 1111 1111 2025 and 12 4111-1111-1111-1111"
    assert found(text) == [("card", "4111 1111 1111 1111"), ("card", "4111-1111-1111-1111")]


def test_unknown_kinds_and_regions_are_named() -> None:
    with pytest.raises(ValueError, match="unknown kind 'emial'"):
        pii.create(["emial"])
    with pytest.raises(ValueError, match="unknown phone region 'UK'"):
        pii.create(["phone"], regions=["UK"])
