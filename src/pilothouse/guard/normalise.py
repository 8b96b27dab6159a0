"""What a text says once its disguise is off: look-alike letters, hidden characters, leet, spacing, simple encodings."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote

# Letters that look Latin and are not (Unicode's confusables, the common ones of Cyrillic, Greek, Armenian, small caps).
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁԛԝһӏпгмткв" + "αβεικνορτυχωη" + "օսոհց" + "ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀᴛᴜᴠᴡʏᴢ" + "ıɑɡℓ",
    "aeopcyxijsdqwhlnrmtkb" + "abeiknoptuxwn" + "ounhg" + "abcdeghijklmnoprtuvwyz" + "iagl",
)
_LEET = str.maketrans("013457@$!|+", "oieastasilt")
_LEET_WORD = re.compile(r"(?<!\S)(?=\S*[a-z])(?=\S*[0-9@$!|+])[a-z0-9@$!|+]{3,}")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][ .*_\-]){3,}[^\W_](?![^\W_])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :]?){12,}")
_ESCAPES = re.compile(r"(?:\\x[0-9a-f]{2}|\\u[0-9a-f]{4}){4,}")
# A few words in rot13 and backwards: these readings are made only where one of them shows.
_ROT13 = re.compile("vtaber|vafgehpgvba|flfgrz|cebzcg|cerivbhf|erirny|qvfertneq|olcnff")
_BACKWARDS = re.compile("erongi|snoitcurtsni|metsys|tpmorp|suoiverp|laever|dragersid|ssapyb")


class Reading(NamedTuple):
    """One way to read a text. `how`: "plain", or what had to be undone."""

    text: str
    how: str


def plain(text: str) -> str:
    """Lower case, compatibility forms folded, accents and invisible characters dropped, look-alikes Latin."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKD", "".join(map(_visible, text))).lower()
    kept = "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    return " ".join(_latin(kept).split())


def _visible(char: str) -> str:
    # Tag characters (U+E0020–E007E) carry invisible ASCII: a known way to smuggle instructions.
    return chr(ord(char) - 0xE0000) if "\U000e0020" <= char <= "\U000e007e" else char


def _latin(text: str) -> str:
    """Fold look-alikes only in words that also have Latin letters, or that turn wholly Latin: Russian stays Russian."""
    out = []
    for word in re.split(r"(\s+)", text):
        folded = word.translate(_LOOKALIKES)
        mixed = any("a" <= c <= "z" for c in word)
        out.append(folded if mixed or folded.isascii() else word)
    return "".join(out)


def readings(text: str) -> list[Reading]:
    """The plain reading first, then others where the text shows signs of them. At most a dozen."""
    base = plain(text)
    found = {base: "plain"}

    def add(other: str, how: str) -> None:
        if other and len(found) < 12:
            found.setdefault(other, how)

    if _LEET_WORD.search(base):
        add(_LEET_WORD.sub(lambda m: m[0].translate(_LEET), base), "leet")
    if _SPACED.search(base):
        # Wider gaps are the gaps between words; `plain` has folded them, so look at the text as it came.
        raw = re.sub(r"\s{2,}|\s?[/|]\s?", "\n", text.lower())
        add(" ".join(_SPACED.sub(lambda m: re.sub(r"[ .*_\-]", "", m[0]), raw).split()), "spaced")
    if "&#" in text:
        add(plain(html.unescape(text)), "entities")
    if re.search(r"(?:%[0-9a-fA-F]{2}.{0,3}){3}", text):
        add(plain(unquote(text)), "percent")
    if _ESCAPES.search(text):
        add(plain(_ESCAPES.sub(lambda m: codecs.decode(m[0], "unicode_escape"), text)), "escapes")
    if _ROT13.search(base):
        add(codecs.decode(base, "rot13"), "rot13")
    if _BACKWARDS.search(base):
        add(base[::-1], "backwards")
    for segment in list(_BASE64.finditer(text))[:4]:
        add(_decoded(segment[0], base64_too=True), "base64")
    for segment in list(_HEX.finditer(text))[:4]:
        add(_decoded(re.sub("[ :]", "", segment[0]), base64_too=False), "hex")
    return [Reading(reading, how) for reading, how in found.items()]


def _decoded(segment: str, *, base64_too: bool) -> str:
    """Plain text of a base64 or hex segment, "" if it is something else."""
    try:
        if base64_too:
            body = segment.rstrip("=").replace("-", "+").replace("_", "/")
            data = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        else:
            data = bytes.fromhex(segment[: len(segment) // 2 * 2])
        text = data.decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return plain(text) if len(text) > 5 and sum(c.isalnum() or c.isspace() for c in text) > 0.8 * len(text) else ""
