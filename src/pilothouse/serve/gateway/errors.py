"""Errors in OpenAI's shape: status, type, code, message, and the request's id in the header."""

from __future__ import annotations

from typing import Any

import msgspec

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error"}


class ApiError(Exception):
    """An answer that is an error. `code` is for programs, `message` for people."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None, ask_for: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers: dict[str, str] = {}
        if retry_after_s:
            self.headers["retry_after"] = str(retry_after_s)
        if ask_for:
            self.headers["www_authenticate"] = f'{ask_for} realm="pilothouse"'

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def encoded(self) -> bytes:
        """The object as JSON."""
        return msgspec.json.encode(self.body())
