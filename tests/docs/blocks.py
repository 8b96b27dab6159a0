"""What stands in the documentation's fenced blocks, by section: the tests run it or check it.

The word after the language is for the tests (pages do not show it). yaml `served`: the section's project has it.
sh `served`: a command that goes on; it is started, and the section goes on once it answers. sh `refused`: what each
curl in it asks for must be refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    word: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of second rank."""

    page: str
    title: str
    blocks: tuple[Block, ...]

    def of(self, language: str, word: str | None = None) -> list[str]:
        """The texts of its blocks in this language (with this word)."""
        return [b.text for b in self.blocks if b.language == language and word in (None, b.word)]


def sections(page: Path) -> list[Section]:
    """Those of a page that have blocks."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    found = []
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        blocks = tuple(Block(*match.groups(default="")) for match in _BLOCK.finditer(text))
        if blocks:
            found.append(Section(page.name, title, blocks))
    return found
