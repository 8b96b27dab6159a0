"""The model repository that Triton reads: config, version folder, and what runs in it (llama.cpp or vLLM).

REPOSITORY/NAME/config.pbtxt
REPOSITORY/NAME/1/model.py                       back end llamacpp: `_triton_model`
REPOSITORY/NAME/1/model.json, multi_lora.json    back end vllm: Triton's own vLLM back end reads these
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "1"
_INPUTS = {
    "llamacpp": (
        ("text_input", "TYPE_STRING", True),
        ("messages", "TYPE_STRING", True),
        ("sampling_parameters", "TYPE_STRING", True),
        ("adapter", "TYPE_STRING", True),
        ("stream", "TYPE_BOOL", True),
    ),
    "vllm": (
        ("text_input", "TYPE_STRING", False),
        ("sampling_parameters", "TYPE_STRING", True),
        ("stream", "TYPE_BOOL", True),
        ("exclude_input_in_output", "TYPE_BOOL", True),
        ("return_finish_reason", "TYPE_BOOL", True),
        ("return_num_input_tokens", "TYPE_BOOL", True),
        ("return_num_output_tokens", "TYPE_BOOL", True),
    ),
}
_OUTPUTS = {
    "llamacpp": (
        ("text_output", "TYPE_STRING"),
        ("finish_reason", "TYPE_STRING"),
        ("chunks", "TYPE_STRING"),
        ("num_input_tokens", "TYPE_UINT32"),
        ("num_output_tokens", "TYPE_UINT32"),
    ),
    "vllm": (("text_output", "TYPE_STRING"),),  # its back end adds the others by itself, as its release has them
}


def write_llamacpp(repository: Path, name: str, settings: Mapping[str, Any]) -> None:
    """A decoupled model (many responses a request) in Triton's Python back end; settings as `_triton_model` reads."""
    folder = _version_folder(repository, name)
    source = Path(__file__).with_name("_triton_model.py")
    (folder / "model.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    _write_config(repository, name, "llamacpp", "python", {"settings": json.dumps(dict(settings))}, "KIND_CPU")


def write_vllm(
    repository: Path, name: str, engine_args: Mapping[str, Any], adapters: Sequence[tuple[str, str]]
) -> None:
    """A model of Triton's vLLM back end. engine_args: vLLM's own names; adapters: (name, PEFT folder)."""
    folder = _version_folder(repository, name)
    arguments = dict(engine_args)
    if adapters:
        arguments |= {"enable_lora": True}
        (folder / "multi_lora.json").write_text(json.dumps(dict(adapters), indent=2), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(arguments, indent=2), encoding="utf-8")
    # vLLM's figures (vllm:num_requests_running, …) on Triton's own page.
    _write_config(repository, name, "vllm", "vllm", {"REPORT_CUSTOM_METRICS": "true"}, "KIND_MODEL")


def _version_folder(repository: Path, name: str) -> Path:
    folder = repository / name / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_config(
    repository: Path, name: str, kind: str, backend: str, parameters: Mapping[str, str], instance: str
) -> None:
    # JSON's strings are strings of protobuf's text format too, as long as they are ASCII.
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend)}",
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        f"instance_group [ {{ count: 1 kind: {instance} }} ]",
    ]
    for input_name, data_type, optional in _INPUTS[kind]:
        extra = " optional: true" if optional else ""
        lines.append(f'input [ {{ name: "{input_name}" data_type: {data_type} dims: [ 1 ]{extra} }} ]')
    for output_name, data_type in _OUTPUTS[kind]:
        lines.append(f'output [ {{ name: "{output_name}" data_type: {data_type} dims: [ -1 ] }} ]')
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}")
    (repository / name / "config.pbtxt").write_text("\n".join([*lines, ""]), encoding="utf-8")
