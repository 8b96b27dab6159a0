"""How does a GGUF's vocabulary cut text before merging? transformers leaves some of it out; here it is put right.

llama.cpp names the rule in `tokenizer.ggml.pre` (its src/llama-vocab.cpp holds the regular expressions). transformers 5
knows a table of them and takes GPT-2's rule for all others, which is wrong for the digits of the SmolLM family: trained
and served model would read "25 august" as different tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

# llama.cpp: each \p{N} on its own, then GPT-2's rule.
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_GPT2 = frozenset({"gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "trillion"})
_DIGITS_RULE: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def put_right(tokenizer_json: Path, pre: str) -> bool:
    """Write the rule of `pre` into a saved tokenizer where transformers lacks it. False: neither of us knows it."""
    if pre in _SINGLE_DIGITS:
        data = msgspec.json.decode(tokenizer_json.read_bytes())
        data["pre_tokenizer"] = _DIGITS_RULE
        tokenizer_json.write_bytes(msgspec.json.encode(data))
        return True
    return pre in _GPT2 or pre in _known_to_transformers()


def name_of(tokenizer_json: Path) -> str | None:
    """The reverse: llama.cpp's name for the rule in a saved tokenizer, or None when it is not one we know."""
    rule = msgspec.json.decode(tokenizer_json.read_bytes()).get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", [rule])
    kinds = [p.get("type") for p in parts]
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex", True):
        return "smollm"
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        return _SPLITS.get(str(parts[0].get("pattern", {}).get("Regex", "")))
    return None


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    f"{_WORDS}|\\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    f"{_WORDS}|\\p{{N}}{_REST}": "qwen2",
}


def _known_to_transformers() -> frozenset[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # another transformers version keeps it elsewhere
        return frozenset({"llama-bpe", "qwen2"})
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)
