"""Triton over gRPC: one stream a request, whose end is told and whose cancelling reaches the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from pilothouse.serve.engines._openai_pieces import EngineError
from pilothouse.serve.engines._triton_models import fault

_FINAL = "triton_final_response"


class GrpcTransport:
    """tritonclient's asyncio client; it lives in Triton's own environment."""

    def __init__(self, address: str, model: str) -> None:
        from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self._client = InferenceServerClient(address)
        self._model = model

    async def ask(
        self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The outputs of each response, by name."""
        import grpc  # type: ignore[import-not-found, import-untyped, unused-ignore]

        tensors = [_tensor(name, value) for name, value in inputs.items()]

        async def once() -> AsyncIterator[dict[str, Any]]:
            yield {
                "model_name": self._model,
                "inputs": tensors,
                # Without the empty final response nobody is told that a decoupled model has ended.
                "parameters": {**parameters, "triton_enable_empty_final_response": True},
            }

        answers = self._client.stream_infer(once())
        try:
            async for result, error in answers:
                if error is not None:
                    raise fault(error.message(), 500)
                response = result.get_response()
                if response.outputs:
                    yield {output.name: result.as_numpy(output.name).reshape(-1)[0] for output in response.outputs}
                if _FINAL in response.parameters and response.parameters[_FINAL].bool_param:
                    return
        except grpc.RpcError as e:
            raise EngineError(503, f"Triton cannot be reached ({e.details()})") from None
        finally:
            answers.cancel()

    async def ready(self) -> bool:
        """Can the model answer?"""
        from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found, import-untyped, unused-ignore]

        try:
            return bool(await self._client.is_model_ready(self._model, client_timeout=5))
        except InferenceServerException:
            return False

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


def _tensor(name: str, value: str | bool) -> Any:
    import numpy as np
    from tritonclient.grpc import InferInput  # type: ignore[import-not-found, import-untyped, unused-ignore]

    text = isinstance(value, str)
    tensor = InferInput(name, [1], "BYTES" if text else "BOOL")
    tensor.set_data_from_numpy(
        np.array([value.encode()] if isinstance(value, str) else [value], dtype=object if text else bool)
    )
    return tensor
