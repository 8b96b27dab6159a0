"""`/v1/embeddings`: texts in, vectors out. There is no stream, and no text in the answer for a guard to read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from pilothouse.serve.gateway.dialect import Place, Stream
from pilothouse.serve.gateway.dialects._shape import Name, convert, invalid, unsupported
from pilothouse.serve.gateway.dialects._tokens import INPUT_SCHEMA, kind_of
from pilothouse.serve.gateway.dialects.completions import prompt_texts
from pilothouse.serve.gateway.errors import ApiError


class EmbeddingRequest(Struct, kw_only=True):
    """Texts to embed."""

    model: Name
    input: Annotated[Any, Meta(extra_json_schema=INPUT_SCHEMA)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    user: str | None = None
    stream: Annotated[bool | None, Meta(extra_json_schema={"enum": [False, None]})] = None


class Embeddings:
    """The dialect."""

    path = "/v1/embeddings"
    engine_path = "/v1/embeddings"
    answers_text = False

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same object once its shape is checked."""
        request = convert(asked, EmbeddingRequest)
        if kind_of(request.input, "input") == "text":
            texts = [request.input] if isinstance(request.input, str) else request.input
            if "" in texts:
                raise invalid("input", "an empty text has no embedding")
        if request.stream:
            raise unsupported("stream", "embeddings come whole")
        return asked

    def texts(self, body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
        """The texts to embed; token ids cannot be read."""
        return prompt_texts(body, "input")

    def lift(self, answer: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """The same object: vectors are nobody's words."""
        return answer

    def whole(self, answer: dict[str, Any], asked: dict[str, Any], request_id: str) -> dict[str, Any]:
        """The vectors under the model's public name. A refusal of the input guard has no vector: it is an error."""
        if "pilothouse" in answer:
            decision = answer["pilothouse"]
            raise ApiError(400, "content_filter", f"{decision['guard']} refused the input ({decision['decision_id']})")
        answer["model"] = asked["model"]
        return answer

    def stream(self, asked: dict[str, Any], request_id: str) -> Stream:
        """There is none: `request` refuses to stream."""
        raise ApiError(400, "unsupported_value", "stream: embeddings come whole")

    def error(self, error: ApiError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error.encoded()


def create() -> Embeddings:
    """The member."""
    return Embeddings()
