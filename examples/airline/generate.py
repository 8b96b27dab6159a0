"""Write the example's rows: `python examples/airline/generate.py` makes data/{train,dev,test}.jsonl from phrasings.txt.

Seeded and standard library only: the same bytes on every machine. A phrasing is used in one split only, so test rows
ask in words that training never saw; a share of the names and cities in dev and test is new as well.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20261123
SPLITS = ("train", "dev", "test")
ROWS_PER_INTENT = {"train": 110, "dev": 25, "test": 25}

# The order in which an answer names its slots: fixed, so that equal meaning is equal text.
SLOTS = (
    *("booking_ref", "flight", "date", "city_from", "city_to", "city"),
    *("name", "bag_count", "seat", "member", "need"),
)
# Some blanks differ only in grammar ("on 3 May", "tomorrow", "yesterday"; "seat 14C", "a window seat").
SLOT_OF = {"when": "date", "past": "date", "place": "seat"}

FIRST = "Ada Bruno Carmen Dilan Elif Farid Greta Hugo Ines Jonas Kofi Lena Marek Nadia Omar Pia Rosa Samir Tess Yuki"
LAST = "Abel Brandt Costa Duarte Eriksen Fontaine Gruber Haddad Ito Jensen Kovac Lindqvist Moreau Novak Okafor Pires"
CITIES = (
    "Lisbon Oslo Vienna Dublin Geneva Porto Riga Athens Malaga Prague Berlin Krakow Lyon Tallinn Naples Zagreb Bergen "
    "Hamburg Seville Sofia"
)
NEW_FIRST, NEW_LAST, NEW_CITIES = "Vera Anton Zoe Malik", "Quist Rinaldi Silva Takeda", "Turin Gdansk Cork Bilbao"
MONTHS = "January February March April May June July August September October November December"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
PLACES = ("window", "aisle", "front row", "exit row", "rear")
NEEDS = (
    "wheelchair help",
    "priority boarding",
    "boarding assistance",
    "an escort",
    "a lift",
    "a guide",
    "ramp access",
    "a buggy ride",
)
COUNTS = ("2", "3", "4", "two", "three", "four")

OPENERS = {
    "train": ("Hi,", "Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "Sorry to ask,", "Quick one:"),
    "test": ("Hello Meridian,", "Good evening,", "Hiya,", "To whom it may concern,"),
}
CLOSERS = {
    "train": ("Thanks!", "Thank you.", "Please hurry.", "Many thanks.", "Cheers", "Kind regards", "Let me know."),
    "test": ("Thanks a lot.", "Much appreciated.", "Looking forward to your reply.", "Best wishes"),
}


@dataclass(frozen=True)
class Phrasing:
    """One wording of one intent; it lives in one split."""

    id: str
    intent: str
    split: str
    text: str


def phrasings(path: Path) -> list[Phrasing]:
    """The phrasings of the file, in its order."""
    found: list[Phrasing] = []
    intent, count = "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            intent, count = line.strip("[] "), 0
            continue
        split, _, text = line.partition(": ")
        if split not in SPLITS or not intent or not text:
            raise SystemExit(f"{path}:{number}: expected 'train: …', 'dev: …' or 'test: …' under an [intent]")
        count += 1
        found.append(Phrasing(f"{intent}.{count:02d}", intent, split, text.strip()))
    return found


def values(rng: random.Random, new: bool) -> dict[str, Callable[[], tuple[str, str]]]:
    """For each blank a maker of (words in the message, value in the answer). new: some names and cities are unseen."""

    def pool(seen: str, unseen: str) -> list[str]:
        return (unseen if new and rng.random() < 0.25 else seen).split()

    def same(text: str) -> tuple[str, str]:
        return text, text

    def day() -> str:
        number, month = rng.randint(1, 28), rng.choice(MONTHS.split())
        return rng.choice((f"{number} {month}", f"{month} {number}", f"{number} {month[:3]}"))

    def reference() -> str:
        return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(6))

    def moment(words: tuple[str, ...], prefix: str) -> tuple[str, str]:
        if rng.random() < 0.5:
            date = day()
            return f"on {date}", date
        return same(rng.choice((*words, f"{prefix} {rng.choice(DAYS.split())}")))

    return {
        "booking_ref": lambda: same(reference()),
        "flight": lambda: same(f"MRD{rng.randint(100, 999)}"),
        "date": lambda: same(day()),
        "when": lambda: moment(("tomorrow", "tonight"), "next"),
        "past": lambda: moment(("yesterday",), "last"),
        "city": lambda: same(rng.choice(pool(CITIES, NEW_CITIES))),
        "city_from": lambda: same(rng.choice(pool(CITIES, NEW_CITIES))),
        "city_to": lambda: same(rng.choice(pool(CITIES, NEW_CITIES))),
        "name": lambda: same(f"{rng.choice(pool(FIRST, NEW_FIRST))} {rng.choice(pool(LAST, NEW_LAST))}"),
        "bag_count": lambda: same(rng.choice(COUNTS)),
        "seat": lambda: same(f"{rng.randint(1, 32)}{rng.choice('ABCDEF')}"),
        "place": lambda: same(rng.choice(PLACES)),
        "member": lambda: same(f"ML{rng.randint(10000, 99999)}"),
        "need": lambda: same(rng.choice(NEEDS)),
    }


def mistype(rng: random.Random, word: str) -> str:
    """`word` with two inner letters swapped or one dropped."""
    at = rng.randrange(1, len(word) - 2)
    return word[:at] + (word[at + 1] + word[at] + word[at + 2 :] if rng.random() < 0.5 else word[at + 1 :])


def message(rng: random.Random, phrasing: Phrasing) -> tuple[str, dict[str, str]]:
    """One customer's message in this phrasing, and the slots that it holds, verbatim."""
    makers = values(rng, phrasing.split != "train")
    manner = "train" if phrasing.split == "train" else "test"
    parts = re.split(r"\{(\w+)\}", phrasing.text)
    if rng.random() < 0.12:  # a typing slip, never inside a value
        at = rng.randrange(0, len(parts), 2)
        long = list(re.finditer(r"[a-z]{5,}", parts[at]))
        if long:
            m = rng.choice(long)
            parts[at] = parts[at][: m.start()] + mistype(rng, m.group()) + parts[at][m.end() :]
    slots: dict[str, str] = {}
    for i in range(1, len(parts), 2):
        blank = parts[i]
        slot = SLOT_OF.get(blank, blank)
        words, value = makers[blank]()
        while value in slots.values():  # "from Oslo to Oslo"
            words, value = makers[blank]()
        parts[i], slots[slot] = words, value
    text = re.sub(r"\ba (?=aisle|exit)", "an ", "".join(parts))
    opened = rng.random() < 0.4
    if not opened and parts[0]:  # a value at the start stays as it is
        text = text[0].upper() + text[1:]
    if opened:
        text = f"{rng.choice(OPENERS[manner])} {text}"
    if rng.random() < 0.3:
        text = f"{text} {rng.choice(CLOSERS[manner])}"
    if rng.random() < 0.15:
        return text.lower(), {slot: value.lower() for slot, value in slots.items()}
    return text, slots


def answer(intent: str, slots: dict[str, str]) -> str:
    """The wanted answer: compact JSON, keys in a fixed order."""
    ordered = {slot: slots[slot] for slot in SLOTS if slot in slots}
    return json.dumps({"intent": intent, "slots": ordered}, ensure_ascii=False, separators=(",", ":"))


def rows(split: str, known: list[Phrasing]) -> list[dict[str, object]]:
    """The split's rows, shuffled, no message twice (case and punctuation aside)."""
    rng = random.Random(f"{SEED}/{split}")
    made: list[dict[str, object]] = []
    seen: set[str] = set()
    for intent in dict.fromkeys(p.intent for p in known):
        mine = [p for p in known if p.intent == intent and p.split == split]
        count = tries = 0
        while count < ROWS_PER_INTENT[split]:
            phrasing = mine[(count + tries) % len(mine)]
            text, slots = message(rng, phrasing)
            key = re.sub(r"\W+", " ", text.lower()).strip()
            if key in seen:
                tries += 1
                continue
            seen.add(key)
            count += 1
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer(intent, slots)}]
            made.append({"messages": turns, "group": phrasing.id, "tags": [intent]})
    rng.shuffle(made)
    return made


def main(folder: Path = HERE / "data") -> None:
    """Write the three files into `folder`."""
    known = phrasings(HERE / "phrasings.txt")
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(split, known)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        print(f"{split}: {len(lines)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "data")
