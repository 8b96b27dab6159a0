"""Everything a project can declare in `pilothouse.yaml`. Each section belongs to one stage; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A block of settings: closed, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Slo(Section):
    """Bounds on service, and the share of offered requests that must meet all of them."""

    name: str = "custom"
    ttft_ms: float | None = Field(None, gt=0)
    tpot_ms: float | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0)
    attainment: float = Field(0.9, gt=0, le=1)
    source: str = "this project"


class Use(Section):
    """What the model is for and where it must run."""

    task: Literal["chat", "extraction", "qa", "summarization", "code"] = "chat"
    languages: tuple[str, ...] = ("en",)
    licence: Literal["permissive", "any"] = "permissive"
    device_memory_gb: float | None = Field(None, gt=0, description="None: this machine's")
    context: int = Field(2048, ge=64, description="tokens a request may hold, prompt and answer together")
    streams: int = Field(4, ge=1, le=256, description="requests served at the same time")
    slo: Slo = Slo(ttft_ms=1000, tpot_ms=100, attainment=0.9)


class Candidate(Section):
    """A model the project considers. source: `hub:ORG/NAME@REV`, `pypi:PACKAGE==VERSION#FILE` or `file:PATH`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: str
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    licence: str = ""


class Data(Section):
    """Rows, by split; formats are found by the loader's name. A missing split is cut from train by group."""

    format: str = "jsonl-chat"
    options: dict[str, Any] = Field({}, description="for the loader, e.g. the columns of csv-rows")
    licence: str = Field("", description="licence of the rows, kept with the dataset")
    train: str
    dev: str | None = None
    test: str | None = None
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 7
    scrub_pii: bool = False
    canaries: int = Field(2, ge=0, le=16, description="secret rows planted in train to test for leaks of training data")
    canary_repeats: int = Field(2, ge=1, le=64)


class Tune(Section):
    """How the model is adapted. options go to the method (`r`, `alpha`, … for lora) and are checked by it."""

    method: str = "lora"
    options: dict[str, Any] = {}
    steps: int = Field(40, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    lora_plus_ratio: float | None = Field(None, ge=1)
    max_tokens: int = Field(512, ge=32, description="longer rows are refused, never cut in silence")
    checkpoint_every: int = Field(10, ge=1)
    eval_every: int = Field(20, ge=1)
    eval_rows: int = Field(32, ge=1)
    threads: int | None = Field(None, ge=1, description="None: every core this process may use")
    seed: int = 7


class Evaluate(Section):
    """What is scored on the test rows, base against tuned, through the served endpoint."""

    metrics: tuple[str, ...] = ("json-valid", "intent-match", "slot-f1", "rouge-l")
    rows: int = Field(150, ge=2, description="test rows to score; the first by digest order, so the choice is stable")
    max_tokens: int = Field(96, ge=1)
    concurrency: int = Field(4, ge=1)


class Parity(Section):
    """How close the served model must be to the trained one."""

    prompts: int = Field(40, ge=2)
    max_tokens: int = Field(64, ge=1)
    min_agreement: float = Field(0.8, ge=0, le=1, description="bound on the share of equal task answers")
    max_logprob_gap: float = Field(0.35, gt=0, description="nats; bound on the median largest next-token difference")


Capability = Literal[
    "streaming", "logprobs", "tools", "structured_output", "adapters", "hot_adapters", "prefix_cache", "embeddings"
]


class Backend(Section):
    """A further engine behind the gateway. role: `serve` shares the traffic, `fallback` answers when none of those can
    (in the order given), `shadow` gets copies whose answers nobody sees."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    engine: str = "remote"
    options: dict[str, Any] = Field({}, description="the engine's own; see `pilothouse engines NAME`")
    role: Literal["serve", "fallback", "shadow"] = "fallback"
    weight: float = Field(1.0, gt=0, description="share of traffic under role `serve`; the release's own has 1")
    streams: int = Field(16, ge=1, description="requests it answers at the same time")


class Price(Section):
    """Money for a million tokens; budgets of keys are counted in it."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)


class Serve(Section):
    """Which engine answers, and the gateway in front of it."""

    engine: str = "llamacpp"
    options: dict[str, Any] = Field({}, description="the engine's own; see `pilothouse engines NAME`")
    needs: tuple[Capability, ...] = Field((), description="what the engine must be able to do; checked at its start")
    replicas: int = Field(1, ge=1, le=16, description="engines of the release on this machine")
    backends: tuple[Backend, ...] = ()
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public: bool = Field(False, description="may bind beyond loopback; then keys are required")
    processes: int = Field(1, ge=0, le=64, description="processes of the gateway; 0: one a core")
    tls_cert: str | None = Field(None, description="file of the certificate chain (PEM); then only https is spoken")
    tls_key: str | None = Field(None, description="file of its key, where the chain's file does not hold it")
    keys_env: str | None = Field(None, description="environment variable with comma-separated `name:key` pairs")
    record_text: bool = Field(False, description="keep guarded texts of exchanges in the store")
    admission: Literal["none", "queue", "slo"] = Field(
        "none", description="queue: wait here for a free stream; slo: refuse with 429 what would miss the SLO's TTFT"
    )
    hedge_ms: float | None = Field(None, gt=0, description="ask a second engine after so long without a byte")
    wait_ready_s: float = Field(15, ge=0, description="how long a request waits for an engine that restarts")
    first_byte_s: float = Field(300, gt=0)
    next_byte_s: float = Field(60, gt=0)
    price: Price = Price()
    drain_s: float = Field(10, gt=0)
    max_body_kb: int = Field(1024, ge=1)


class Rule(Section):
    """One detector in the policy."""

    detector: str
    on: tuple[Literal["input", "output"], ...] = ("input", "output")
    action: Literal["block", "redact", "flag"] = "block"
    threshold: float = Field(0.5, ge=0, le=1)
    on_error: Literal["open", "closed"] = "closed"
    timeout_ms: float = Field(500, gt=0)
    options: dict[str, Any] = {}


class Guard(Section):
    """The policy: rules in order, and what a caller is told when one blocks."""

    rules: tuple[Rule, ...] = ()
    refusal: str = "I can't help with that here."
    handbook: str | None = Field(None, description="file of written policy, for checks of promises")


class Redteam(Section):
    """Attack campaign: probe families and how many attempts each."""

    probes: tuple[str, ...] = ("direct-injection", "jailbreak", "system-prompt-leak", "training-data-leak")
    attempts: int = Field(12, ge=1, description="per family")
    max_tokens: int = Field(96, ge=1)
    concurrency: int = Field(4, ge=1)
    seed: int = 7


class Load(Section):
    """An open-loop load through the gateway."""

    arrivals: str = "poisson"
    options: dict[str, Any] = {}
    rate: float = Field(1.0, gt=0, description="offered requests a second")
    seconds: float = Field(30, gt=0)
    warmup_s: float = Field(3, ge=0)
    max_tokens: int = Field(48, ge=1)
    timeout_s: float = Field(60, gt=0)
    seed: int = 7


class Gate(Section):
    """A rule that a release must satisfy, decided on the interval's bound. Exactly one of `above` and `below`."""

    name: str
    measure: str = Field(description="full name, e.g. evaluate.intent_match.delta")
    above: float | None = None
    below: float | None = None
    on: Literal["interval", "value"] = "interval"

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if (self.above is None) == (self.below is None):
            raise ValueError("give exactly one of 'above' and 'below'")
        return self


class Project(Section):
    """`pilothouse.yaml`, whole. `folder` is where it lies; relative paths start there."""

    project: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    use: Use = Use()
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    model: str = Field(description="name of the picked candidate")
    system_prompt: str = Field("", description="text, or `file:PATH`")
    data: Data
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    parity: Parity = Parity()
    serve: Serve = Serve()
    guard: Guard = Guard()
    redteam: Redteam = Redteam()
    load: Load = Load()
    gates: tuple[Gate, ...] = ()
    folder: Path = Field(Path(), exclude=True)

    @model_validator(mode="after")
    def _picked(self) -> Project:
        if self.model not in {c.name for c in self.candidates}:
            known = ", ".join(c.name for c in self.candidates)
            raise ValueError(f"model {self.model!r} is not among the candidates ({known})")
        return self

    @property
    def candidate(self) -> Candidate:
        """The picked candidate."""
        return next(c for c in self.candidates if c.name == self.model)
