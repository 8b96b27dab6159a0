"""Does anything leak at a chunk border? Invented secrets and personal data, planted in answers and split everywhere."""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pilothouse.guard.policy import Policy

PER_SHEET = 240
"""Plants in all: 0 leaks of 240 bound the rate below 1.6 % (Wilson, 95 %)."""

# Any piece of a plant of at least this many characters in what comes out is a leak.
PIECE = 6
_LABEL = re.compile(r"\[[A-Z0-9_]+\]")

_AROUND = (
    ("Sure, here it is: ", ". Anything else?"),
    ("I found ", " in your booking, so we can go on."),
    ("(see ", ") as you asked."),
    ("The record says:\n- ", "\nPlease check it."),
    ('{"value": "', '"}'),
    ("Ça va coûter 20 € — ", " — d’accord ?"),
)


class Plant(NamedTuple):
    """A value that must not come out, and the answer that holds it."""

    category: str
    value: str
    text: str
    start: int


def make(categories: Sequence[str], count: int, seed: int = 7) -> list[Plant]:
    """`count` plants in turn over the categories that can be invented here."""
    rng = random.Random(seed)
    able = [c for c in dict.fromkeys(categories) if c in MAKERS]
    plants = []
    for number in range(count if able else 0):
        category = able[number % len(able)]
        before, after = _AROUND[number // len(able) % len(_AROUND)]
        value = MAKERS[category](rng)
        if category == "secret":
            before += rng.choice(("password: ", "aws_secret_access_key = ", "the api key is "))
        plants.append(Plant(category, value, before + value + after, len(before)))
    return plants


def splits(plant: Plant) -> Iterator[list[str]]:
    """Every way to cut the answer in two within or at the plant, then pieces of 1, 3 and 4 characters."""
    for at in range(plant.start, plant.start + len(plant.value) + 1):
        yield [plant.text[:at], plant.text[at:]]
    for size in (1, 3, 4):
        yield [plant.text[i : i + size] for i in range(0, len(plant.text), size)]


def leaks(policy: Policy, plant: Plant) -> bool:
    """Does any chunking let a piece of the plant out?"""
    for chunks in splits(plant):
        stream = policy.output()
        out = "".join(stream.feed(chunk).text for chunk in chunks) + stream.finish().text
        if shows(plant, out):
            return True
    return False


def shows(plant: Plant, out: str) -> bool:
    """Is a piece of the plant in the text? Labels do not count: `[PRIVATE_KEY]` has words of a key block."""
    text = _LABEL.sub("\0", out)
    return any(plant.value[i : i + PIECE] in text for i in range(len(plant.value) - PIECE + 1))


def _chars(rng: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(rng.choices(alphabet, k=count))


def _luhn(digits: str) -> str:
    # ISO/IEC 7812-1 annex B: double every second digit from the right of the check digit's place.
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def _card(rng: random.Random) -> str:
    start, length = rng.choice((("4", 16), ("52", 16), ("2221", 16), ("37", 15), ("6011", 16)))
    digits = _luhn(start + _chars(rng, length - len(start) - 1, string.digits))
    gap = rng.choice(("", " ", "-"))
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    groups, at = [], 0
    for size in sizes:
        groups.append(digits[at : at + size])
        at += size
    return gap.join(groups)


def _iban(rng: random.Random) -> str:
    country, account = rng.choice((("DE", ""), ("GB", "NWBK")))
    account += _chars(rng, 18 if country == "DE" else 14, string.digits)
    # ISO 13616: 98 minus the remainder mod 97 with country and 00 moved to the end, letters as numbers from 10.
    check = 98 - int("".join(str(int(c, 36)) for c in f"{account}{country}00")) % 97
    code = f"{country}{check:02d}{account}"
    return code if rng.random() < 0.5 else " ".join(code[i : i + 4] for i in range(0, len(code), 4))


def _phone(rng: random.Random) -> str:
    area, line = rng.choice(("212", "415", "303", "617")), rng.randint(100, 199)
    forms = (f"({area}) 555-0{line}", f"{area}-555-0{line}", f"+1 {area} 555 0{line}", f"+44 20 7946 0{line}")
    return rng.choice(forms)


def _email(rng: random.Random) -> str:
    names = ("maria.lopez", "j_smith", "anna+travel", "o'brien", "chen.wei88", "x")
    hosts = ("example.com", "mail.example.co.uk", "post.example.org", "büro-nord.de")
    return f"{rng.choice(names)}{_chars(rng, 4, string.ascii_lowercase)}@{rng.choice(hosts)}"


def _ssn(rng: random.Random) -> str:
    return f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"


def _private_key(rng: random.Random) -> str:
    body = base64.b64encode(rng.randbytes(480)).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"


def _jwt(rng: random.Random) -> str:
    parts = (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"%d"}' % rng.randint(10**8, 10**9), rng.randbytes(32))
    return ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts)


def _word_and_digits(rng: random.Random) -> str:
    return "Sk7" + _chars(rng, 21)


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "ip": lambda rng: ".".join(str(rng.randint(11, 126)) for _ in range(4)),
    "us_ssn": _ssn,
    "aws_access_key": lambda rng: "AKIA" + _chars(rng, 16, string.ascii_uppercase + string.digits),
    "github_token": lambda rng: "ghp_" + _chars(rng, 36),
    "github_pat": lambda rng: f"github_pat_{_chars(rng, 22)}_{_chars(rng, 59)}",
    "google_api_key": lambda rng: "AIza" + _chars(rng, 35),
    "huggingface_token": lambda rng: "hf_" + _chars(rng, 34),
    "openai_key": lambda rng: "sk-" + _chars(rng, 48),
    "openai_project_key": lambda rng: "sk-proj-" + _chars(rng, 120),
    "slack_token": lambda rng: f"xoxb-{_chars(rng, 12, string.digits)}-{_chars(rng, 24)}",
    "stripe_key": lambda rng: "sk_live_" + _chars(rng, 24),
    "jwt": _jwt,
    "private_key": _private_key,
    "secret": _word_and_digits,
}
