"""Triton over gRPC: one stream a request, whose end is told and whose cancelling reaches the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from pilothouse.serve.engines._openai_pieces import EngineError
from pilothouse.serve.engines._triton_models import fault

_FINAL = "triton_final_response"
_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_READY_S = 5.0


class GrpcTransport:
    """The KServe protocol by tritonclient's own stubs; they live in Triton's environment.

    Not tritonclient's asyncio client: it refuses the parameter without which an empty end is never told.
    """

    def __init__(self, address: str, model: str) -> None:
        import grpc  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from tritonclient.grpc import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            InferResult,
            service_pb2,
            service_pb2_grpc,
        )

        self._rpc_error, self._result, self._messages = grpc.RpcError, InferResult, service_pb2
        self._channel = grpc.aio.insecure_channel(address, options=_UNLIMITED)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model

    async def ask(
        self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The outputs of each response, by name."""
        request = self._request(inputs, parameters)

        async def once() -> AsyncIterator[Any]:
            yield request

        call = self._stub.ModelStreamInfer(once())
        try:
            async for answer in call:
                if answer.error_message:
                    raise fault(answer.error_message, 500)
                response = answer.infer_response
                if response.outputs:
                    result = self._result(response)
                    yield {output.name: result.as_numpy(output.name).reshape(-1)[0] for output in response.outputs}
                if response.parameters[_FINAL].bool_param:
                    return
        except self._rpc_error as e:
            raise EngineError(503, f"Triton cannot be reached ({e.details()})") from None
        finally:
            call.cancel()

    async def ready(self) -> bool:
        """Can the model answer?"""
        try:
            answer = await self._stub.ModelReady(
                self._messages.ModelReadyRequest(name=self._model), timeout=_READY_S, wait_for_ready=True
            )
        except self._rpc_error:
            return False
        return bool(answer.ready)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def _request(self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]) -> Any:
        m = self._messages
        request = m.ModelInferRequest(model_name=self._model)
        for name, value in inputs.items():
            tensor = request.inputs.add(name=name, datatype="BYTES" if isinstance(value, str) else "BOOL", shape=[1])
            if isinstance(value, str):
                tensor.contents.bytes_contents.append(value.encode())
            else:
                tensor.contents.bool_contents.append(value)
        for name, text in parameters.items():
            request.parameters[name].string_param = text
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request
