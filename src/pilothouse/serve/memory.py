"""Does it fit? Weights and KV cache against the memory that is free, before an engine is started."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.core.errors import UserError
from pilothouse.serve import footprint
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.devices import Gpu, available, capacity, freest, node_room
from pilothouse.serve.footprint import Footprint, kv_bytes_per_token

__all__ = ["Need", "Plan", "available", "capacity", "check_memory", "kv_bytes_per_token", "need", "node_room"]

_LLAMACPP = 256 * 2**20  # a llama.cpp process with SmolLM2 and its compute buffers: 150–250 MB beyond weights and KV
_SHORTEST = 64  # tokens: `use.context` may not be less


@dataclass(frozen=True)
class Plan:
    """How an engine lays a model out. The default is llama.cpp's: one copy in RAM.

    gpus: those it may use; None: RAM. tensor, pipeline: devices that share one copy. copies: of the model in one engine
    (data parallel). share: of a GPU's memory that the engine takes. dtype, kv_type: of weights and cache. cache: bytes
    of a KV cache whose size is set by hand. overhead: bytes beside weights and cache, a device (RAM: in all).
    ahead: tokens read in one step. offload: bytes of weights that each GPU leaves in RAM. bound: each of the processes
    that share a copy stays on one memory node (NUMA).
    """

    gpus: tuple[Gpu, ...] | None = None
    tensor: int = 1
    pipeline: int = 1
    copies: int = 1
    share: float = 1.0
    dtype: str = "auto"
    kv_type: str = "auto"
    cache: int | None = None
    overhead: int = _LLAMACPP
    ahead: int = 0
    offload: int = 0
    bound: bool = False

    @property
    def together(self) -> int:
        """Devices that hold one copy."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Need:
    """Bytes that one copy takes, over all devices that hold it. stream: of the cache, one stream's part."""

    weights: int
    stream: int
    cache: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.overhead


_DEFAULT = Plan()


def need(spec: EngineSpec, plan: Plan = _DEFAULT) -> Need:
    """What one copy of the model takes for `spec`."""
    model = _footprint(spec, plan)
    adapters = sum(f.stat().st_size for _, path in spec.adapters for f in (path, *path.glob("*")) if f.is_file())
    stream = model.stream(spec.context, split=plan.tensor, ahead=plan.ahead)
    cache = stream * spec.streams if plan.cache is None else plan.cache
    devices = 1 if plan.gpus is None else plan.together
    weights = max(0, model.weights - (0 if plan.gpus is None else plan.offload * devices)) + adapters
    return Need(weights, stream, cache, plan.overhead * devices)


def check_memory(spec: EngineSpec, *, replicas: int | None = None, plan: Plan = _DEFAULT) -> None:
    """UserError when the model cannot fit, with the largest setting that would.

    One engine must fit what is free now. All `replicas` (default: the spec's) must fit the whole machine: when one of
    them is started again, the others' memory is taken, by right.
    """
    wanted, times = need(spec, plan), replicas or spec.replicas
    if plan.gpus is not None:
        _fits_gpus(spec, plan, wanted, plan.gpus, times)
        return
    free, whole, where = available(), capacity(), "are free"
    if free is not None and plan.bound and (room := node_room()) is not None and room * plan.together < free:
        free, where = room * plan.together, "are free on the memory node that it is bound to"
    said = f"{spec.streams} streams of {spec.context} tokens"
    if free is not None and wanted.total * plan.copies > free:
        raise _refusal(spec, plan, wanted, free // plan.copies, f"{said} need", where)
    if whole is None or times == 1:
        return
    once = wanted.weights if spec.model.is_file() else 0  # a GGUF file is mapped: replicas share its pages
    each = wanted.total * plan.copies - once
    if once + each * times > whole:
        left = (whole - once) // times + once
        where = f"is its share of this machine's {whole / 1e9:.1f}"
        most = (whole - once) // each
        hint = f" Or set replicas to {most}." if most >= 1 else ""
        raise _refusal(
            spec, plan, wanted, left // plan.copies, f"each of {times} replicas with {said} needs", where, hint
        )


def _footprint(spec: EngineSpec, plan: Plan) -> Footprint:
    if spec.model.is_dir():
        return footprint.of_folder(spec.model, dtype=plan.dtype, kv_type=plan.kv_type)
    return footprint.of_gguf(spec.model)


def _fits_gpus(spec: EngineSpec, plan: Plan, wanted: Need, gpus: tuple[Gpu, ...], replicas: int) -> None:
    """Enough GPUs for all replicas; room on those with the most, of which the fullest decides: all hold alike."""
    used = plan.together * plan.copies
    if used * replicas > len(gpus):
        parts = {"tensor": plan.tensor, "pipeline": plan.pipeline, "data": plan.copies}
        sizes = [f"{n} {name} parallel" for name, n in parts.items() if n > 1]
        what = (
            f"{used * replicas} GPUs are needed ({', '.join([*sizes, f'replicas: {replicas}'])}), {len(gpus)} are here"
        )
        fix = f"Choose sizes whose product is {len(gpus)} or less." if gpus else "Take an engine for CPUs."
        raise UserError(what, where="pilothouse.yaml: serve.options", fix=fix)
    taken = freest(gpus, used)
    if any(g.total is None or g.free is None for g in taken):
        return
    room = min(min(int((g.total or 0) * plan.share), g.free or 0) for g in taken) * plan.together
    if wanted.total > room:
        names = ", ".join(sorted({g.name for g in taken}))
        where = f"can be used on {plan.together} GPU{'s' if plan.together > 1 else ''} ({names})"
        raise _refusal(spec, plan, wanted, room, f"{spec.streams} streams of {spec.context} tokens need", where)


def _refusal(spec: EngineSpec, plan: Plan, wanted: Need, room: int, what: str, where: str, hint: str = "") -> UserError:
    """`room`: bytes for one copy."""
    parts = f"{wanted.weights / 1e9:.1f} weights, {wanted.cache / 1e9:.1f} KV cache"
    return UserError(
        f"{what} {wanted.total / 1e9:.1f} GB ({parts}), {room / 1e9:.1f} GB {where}",
        where=spec.model.name,
        fix=_largest(spec, plan, wanted, room) + hint,
    )


def _largest(spec: EngineSpec, plan: Plan, wanted: Need, room: int) -> str:
    """The setting that would fit: fewer streams, else one shorter stream, else another model."""
    left = room - wanted.weights - wanted.overhead
    if plan.cache is not None and left >= 1e8:
        return f"Set kv_cache_gb to {int(left / 1e8) / 10:g} or less."
    if plan.cache is None and wanted.stream and left >= wanted.stream:
        return f"Set use.streams to {left // wanted.stream} or less."
    tokens = _longest(spec, plan, left) if plan.cache is None and wanted.stream else 0
    if tokens >= _SHORTEST:
        return f"Set use.streams to 1 and use.context to {tokens} or less."
    return "Choose a smaller model or quantisation."


def _longest(spec: EngineSpec, plan: Plan, left: int) -> int:
    """Tokens of the longest single stream in `left` bytes, by halving (a window makes it no straight line)."""
    model = _footprint(spec, plan)
    low, high = 0, spec.context
    while low < high:
        middle = (low + high + 1) // 2
        if model.stream(middle, split=plan.tensor, ahead=plan.ahead) <= left:
            low = middle
        else:
            high = middle - 1
    return low
