"""Errors of the API: status, code, message. Each dialect gives them its own shape; OpenAI's is the default."""

from __future__ import annotations

from typing import Any

import msgspec

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error. `code` is for programs, `message` for people, `param` the field that is wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        ask_for: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers: dict[str, str] = {}
        if retry_after_s:
            self.headers["retry-after"] = str(retry_after_s)
        if ask_for:
            self.headers["www-authenticate"] = f'{ask_for} realm="pilothouse"'

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """The object as JSON."""
        return msgspec.json.encode(self.body())
