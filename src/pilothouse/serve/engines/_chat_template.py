"""Has a GGUF model's chat template a place for tools? Where not, llama.cpp leaves them out without a word.

Seen with SmolLM2 and xllamacpp 2026.10: `tools` with `tool_choice: required` is answered as if neither had been sent.
"""

from __future__ import annotations

import mmap
import re
import struct
from functools import lru_cache
from pathlib import Path

_KEY = b"tokenizer.chat_template"
_TEXT = 8  # GGUF's type of a text: u64 length, then UTF-8 (ggml's docs/gguf.md)
_LONGEST = 1 << 20


def takes_tools(model: Path) -> bool:
    """False where the template is there and does not ask for tools; True where nothing is known."""
    if not model.is_file():
        return True
    stat = model.stat()
    template = _template(model, stat.st_mtime_ns, stat.st_size)
    return template is None or re.search(r"\btools\b", template) is not None


@lru_cache(maxsize=32)
def _template(model: Path, _changed: int, size: int) -> str | None:
    """The template's text, from the file's own metadata: '' where a whole GGUF file has none, None where it is none."""
    with model.open("rb") as f:
        if size < 24 or f.read(4) != b"GGUF":
            return None
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # A key stands behind its length and before its type; `…chat_template.tool_use` is another key.
            at = data.find(struct.pack("<Q", len(_KEY)) + _KEY + struct.pack("<I", _TEXT))
            if at < 0:
                return ""
            start = at + 8 + len(_KEY) + 4
            (length,) = struct.unpack_from("<Q", data, start)
            if length > _LONGEST:
                return None
            return data[start + 8 : start + 8 + length].decode("utf-8", "replace")
