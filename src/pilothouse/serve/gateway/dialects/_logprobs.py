"""Log probabilities of `/v1/completions` in chat shape and back.

vLLM answers in the legacy shape (parallel lists), llama.cpp in chat's (one object a token); the gateway knows chat's,
old clients know the legacy one. A token of an echoed prompt may have no probability: null in both.
"""

from __future__ import annotations

from typing import Any


def to_chat(legacy: Any) -> dict[str, Any] | None:
    """Either shape in chat shape."""
    if not isinstance(legacy, dict):
        return None
    if "tokens" not in legacy:
        return legacy if isinstance(legacy.get("content"), list) else None
    tokens = legacy.get("tokens") or []
    values = legacy.get("token_logprobs") or []
    tops = legacy.get("top_logprobs") or []
    content = []
    for i, token in enumerate(tokens):
        top = tops[i] if i < len(tops) and isinstance(tops[i], dict) else {}
        content.append(
            {
                "token": token,
                "logprob": values[i] if i < len(values) else None,
                "bytes": None,
                "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()],
            }
        )
    return {"content": content}


def to_legacy(chat: Any, offset: int) -> tuple[dict[str, Any] | None, int]:
    """Chat shape in the legacy shape, its first token at `offset` in the text; and the offset after its last."""
    entries = chat.get("content") if isinstance(chat, dict) else None
    if not isinstance(entries, list):
        return None, offset
    tokens, values, tops, offsets = list[str](), list[Any](), list[Any](), list[int]()
    for entry in entries:
        token = entry.get("token") or ""
        tokens.append(token)
        values.append(entry.get("logprob"))
        top = entry.get("top_logprobs") or []
        tops.append({t["token"]: t["logprob"] for t in top} if top else None)
        offsets.append(offset)
        offset += len(token)
    legacy = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return legacy, offset
