"""What may be set of vLLM, and the words of its command line for it. Names are vLLM's own, with underscores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.serve.engines._options import WHERE, Option

OPTIONS = (
    Option(
        "python", str, None, "Python of the environment that has vLLM; default: found as `pilothouse engines` says."
    ),
    Option("tensor_parallel_size", int, 1, "GPUs that share each layer.", low=1),
    Option("pipeline_parallel_size", int, 1, "GPUs in a row, each with a part of the layers.", low=1),
    Option("data_parallel_size", int, 1, "Copies of the model behind one address.", low=1),
    Option("quantization", str, None, "fp8, awq, gptq, …; default: what the model's config.json says."),
    Option(
        "dtype",
        str,
        "auto",
        "Type of the weights; auto: 16 bits for float32 weights, else as they are.",
        choices=("auto", "half", "float16", "bfloat16", "float", "float32"),
    ),
    Option("kv_cache_dtype", str, "auto", "Type of the KV cache: auto (as the weights), fp8, …"),
    Option(
        "kv_cache_gb",
        float,
        None,
        "Size of the KV cache (GB); default: CPU what use.context and use.streams need, GPU "
        "the rest of gpu_memory_utilization.",
        low=0.01,
    ),
    Option("gpu_memory_utilization", float, 0.9, "Share of each GPU's memory that vLLM takes.", low=0.05),
    Option("cpu_offload_gb", float, None, "Weights that each GPU leaves in RAM (GiB).", low=0),
    Option(
        "block_size", int, None, "Tokens in a block of the KV cache; default: 32 on a CPU, else vLLM's choice.", low=1
    ),
    Option("enable_prefix_caching", bool, True, "Keep the beginnings of prompts in the KV cache."),
    Option(
        "enable_chunked_prefill", bool, None, "Read long prompts in pieces between answers; default: vLLM's choice."
    ),
    Option("max_num_batched_tokens", int, None, "Tokens of one step; default: vLLM's choice.", low=1),
    Option("max_num_seqs", int, None, "Requests at a time; default: use.streams.", low=1),
    Option("speculative_config", dict, None, "Speculative decoding, e.g. {method: ngram, num_speculative_tokens: 4}."),
    Option("enforce_eager", bool, None, "No compiled graphs: starts in half a minute, not minutes; default: on a CPU."),
    Option("load_format", str, "auto", "How weights are read: auto, safetensors, dummy, …"),
    Option(
        "tool_call_parser", str, None, "How this model writes tool calls (hermes, llama3_json, …): no tools without."
    ),
    Option("enable_auto_tool_choice", bool, None, "The model may choose a tool; default: with tool_call_parser."),
    Option("reasoning_parser", str, None, "How this model marks its thinking (deepseek_r1, qwen3, …)."),
    Option("chat_template", str, None, "File of a chat template; default: the model's own."),
    Option(
        "runner", str, "auto", "generate, or pooling for models of embeddings.", choices=("auto", "generate", "pooling")
    ),
    Option("max_loras", int, None, "Adapters in one batch; default: those at start and one more.", low=1),
    Option("max_lora_rank", int, None, "Largest rank of an adapter; default: what those at start have.", low=1),
    Option("max_cpu_loras", int, None, "Adapters kept in RAM; default: max_loras.", low=1),
    Option("max_logprobs", int, 20, "Most alternatives a token that a request may ask for.", low=0),
    Option("seed", int, 0, "Of the engine's random numbers.", low=0),
    Option("trust_remote_code", bool, False, "Run Python that comes with the model."),
    Option(
        "cpu_threads", str, "auto", "Cores that generate on a CPU, as VLLM_CPU_OMP_THREADS_BIND: auto, 0-7, nobind."
    ),
    Option("more", list, (), "Further words of vLLM's command line, as they stand there."),
)

# These go to vLLM's command line as they are, when they are set; the rest needs thought (`vllm.py`).
_PLAIN = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "quantization",
    "dtype",
    "kv_cache_dtype",
    "cpu_offload_gb",
    "block_size",
    "max_num_batched_tokens",
    "max_num_seqs",
    "load_format",
    "tool_call_parser",
    "reasoning_parser",
    "chat_template",
    "runner",
    "max_logprobs",
    "seed",
    "speculative_config",
)
_SWITCHES = ("enable_prefix_caching", "enable_chunked_prefill")  # argparse's BooleanOptionalAction
_MARKS = ("enforce_eager", "enable_auto_tool_choice", "trust_remote_code")  # there or not
# What Pilothouse says itself: a second, different word for it would make its own settings untrue.
_OURS = frozenset(
    f"--{name}"
    for name in (
        "model",
        "served-model-name",
        "host",
        "port",
        "uds",
        "api-key",
        "max-model-len",
        "lora-modules",
        "enable-lora",
        "middleware",
        "root-path",
    )
)
# vLLM's MaxLoRARanks; its tables are made for one of these.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def words(given: Mapping[str, Any]) -> list[str]:
    """Flags for the options that are set."""
    made = []
    for name in _PLAIN:
        value = given[name]
        if value is not None:
            made += [_flag(name), json.dumps(value) if isinstance(value, dict) else str(value)]
    for name in _SWITCHES:
        if given[name] is not None:
            made.append(_flag(name) if given[name] else f"--no-{name.replace('_', '-')}")
    made += [_flag(name) for name in _MARKS if given[name]]
    for word in given["more"]:
        if word.partition("=")[0].replace("_", "-") in _OURS:
            fix = "Say it where Pilothouse reads it: use.context, serve.port, the model, the adapters."
            raise UserError(f"{word.partition('=')[0]} is set by Pilothouse", where=f"{WHERE}.more", fix=fix)
    return [*made, *given["more"]]


def rank_words(ranks: list[int], given: Mapping[str, Any]) -> list[str]:
    """Flags for adapters of these ranks. UserError where `max_lora_rank` or vLLM cannot hold the largest."""
    most = max(ranks, default=_RANKS[2])
    wanted = given["max_lora_rank"] or most
    if wanted < most:
        fix = f"Set it to {most} or more, or leave it out."
        raise UserError(f"{wanted} is too small: an adapter has rank {most}", where=f"{WHERE}.max_lora_rank", fix=fix)
    rank = next((r for r in _RANKS if r >= wanted), None)
    if rank is None:
        what = f"vLLM serves adapters of rank {_RANKS[-1]} at most, not {wanted}"
        raise UserError(what, where="adapters", fix="Merge the adapter into the model, or train one of a smaller rank.")
    loras = given["max_loras"] or len(ranks) + 1
    kept = given["max_cpu_loras"]
    return [
        "--enable-lora",
        *("--max-lora-rank", str(rank), "--max-loras", str(loras)),
        *(("--max-cpu-loras", str(max(kept, loras))) if kept else ()),
    ]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
