"""Parity passes for what was trained, fails for what was not, and asks nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fake_endpoint import Reply
from tests.fake_endpoint import serving as faking
from tests.tune import tiny
from tests.tune.engine import serving

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Row
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Gate, Parity, Tune
from pilothouse.core.records import Asset, Endpoint, Measure, Report
from pilothouse.release.gates import judge
from pilothouse.store import runs
from pilothouse.store.store import Store

pytest.importorskip("torch")

from pilothouse.release import parity
from pilothouse.tune import export, gguf_base, unpack
from pilothouse.tune import run as tune


@dataclass(frozen=True)
class Made:
    """One small turn of the loop: weights, adapter, and both as GGUF files."""

    store: Store
    weights: Asset
    adapter: Asset
    base_gguf: Path
    adapter_gguf: Path
    rows: list[Row]
    system: str

    def compare(self, endpoint: Endpoint, settings: Parity, tag: str) -> Report:
        """Parity against an endpoint; the same tag again goes on with what is there."""
        done = runs.execute(
            self.store,
            "parity",
            tag,
            settings.model_dump(mode="json"),
            {"weights": self.weights, "trained": self.adapter},
            lambda c: parity.run(c, settings, self.weights, self.adapter, self.rows, self.system, endpoint),
            Silent(),
        )
        assert done.report is not None
        return done.report


def make(model: Asset, store: Store, data: Asset, settings: Tune, rows: list[Row], system: str) -> Made:
    def stage(name: str, inputs: dict[str, Asset], function: Any) -> runs.Run:
        return runs.execute(store, name, "t", {}, inputs, function, Silent())

    weights = runs.output(store, stage("unpack", {"model": model}, lambda c: unpack.run(c, model)), "weights")
    trained = stage("tune", {"data": data}, lambda c: tune.run(c, settings, weights, data, system))
    adapter = runs.output(store, trained, "adapter")
    done = stage("export", {"adapter": adapter}, lambda c: export.run(c, model, weights, adapter))
    base, small = runs.output(store, done, "base"), runs.output(store, done, "adapter")
    return Made(
        store, weights, adapter, store.folder(base) / "model.gguf", store.folder(small) / "adapter.gguf", rows, system
    )


def measure(report: Report, name: str) -> Measure:
    found = report.measure(f"parity.{name}")
    assert found is not None
    assert found.value is not None
    return found


def gates(settings: Parity) -> tuple[Gate, Gate]:
    """The two gates of a project on parity."""
    return (
        Gate(name="answers", measure="parity.agreement", above=settings.min_agreement),
        Gate(name="probabilities", measure="parity.logprob_gap", below=settings.max_logprob_gap),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A tiny model, trained and exported."""
    home = tmp_path_factory.mktemp("parity")
    store = Store.open(home / "store")
    gguf_base.write(tiny.save(home / "tiny"), home / "tiny.gguf", "F16", title="tiny", done=lambda: None)
    model = store.add_asset("model", "tiny", {"tiny.gguf": home / "tiny.gguf"})
    settings = tiny.settings(steps=60, learning_rate=1e-2, eval_every=60, checkpoint_every=60)
    yield make(model, store, tiny.dataset(store), settings, tiny.rows(24, "p"), tiny.SYSTEM)
    store.close()


TINY = Parity(prompts=24, max_tokens=16)


def test_what_was_trained_passes_when_it_is_served(made: Made, tmp_path: Path) -> None:
    with serving(made.base_gguf, tmp_path / "log", made.adapter_gguf) as endpoint:
        report = made.compare(endpoint, TINY, "passes")
    assert measure(report, "prompt_equal").value == 1
    assert measure(report, "agreement").n == 24
    assert [judge(gate, [report]).verdict for gate in gates(TINY)] == ["pass", "pass"]
    worst = measure(report, "logprob_gap").high
    assert worst is not None
    assert worst < 0.05  # the same 16-bit weights and the adapter in 32 bits: nothing was rounded again


def test_the_base_without_its_adapter_fails(made: Made, tmp_path: Path) -> None:
    with serving(made.base_gguf, tmp_path / "log") as endpoint:
        report = made.compare(endpoint, TINY, "fails")
    assert [judge(gate, [report]).verdict for gate in gates(TINY)] == ["fail", "fail"]
    worst = report.tables[0].rows[0]
    assert worst[3] is False
    assert worst[1] != worst[2]


def test_the_trained_models_answer_is_what_generate_gives(made: Made, tmp_path: Path) -> None:
    """The shortcut (one forward pass, generation from the first other token) against transformers' own generate."""
    import torch

    with serving(made.base_gguf, tmp_path / "log") as endpoint:  # no adapter: its answers are not the trained ones
        report = made.compare(endpoint, TINY, "greedy")
    trained = parity.load(made.store.folder(made.weights), made.store.folder(made.adapter))
    shown = {item["row"]: item["trained"] for item in report.details["prompts"]}
    for row in made.rows[:6]:
        ids = torch.tensor([parity.prompt_ids(trained.tokenizer, row.messages, made.system)])
        whole = trained.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=2
        )[0, ids.shape[1] :]
        assert shown[row.id] == trained.tokenizer.decode(whole, skip_special_tokens=True)


def test_answered_and_compared_prompts_are_not_done_again(made: Made, tmp_path: Path, monkeypatch: Any) -> None:
    class Killed(BaseException):
        """Stands for the process's end."""

    compare, seen = parity.compare, list[str]()

    def counted(trained: Any, row: Row, *rest: Any) -> Any:
        if len(seen) == 5:
            seen.append("killed")
            raise Killed
        seen.append(row.id)
        return compare(trained, row, *rest)

    monkeypatch.setattr(parity, "compare", counted)
    with serving(made.base_gguf, tmp_path / "log", made.adapter_gguf) as endpoint:
        with pytest.raises(Killed):
            made.compare(endpoint, TINY, "killed")
    nowhere = Endpoint("http://127.0.0.1:9", "m")  # all answers are kept: nobody needs to be asked
    report = made.compare(nowhere, TINY, "killed")
    assert measure(report, "agreement").n == 24
    ids = [s for s in seen if s != "killed"]
    assert len(ids) == len(set(ids)) == 24


def test_an_endpoint_that_fails_or_gives_no_logprobs_is_said_so(made: Made) -> None:
    with faking(lambda _: Reply("overloaded", status=503)) as fake:
        with pytest.raises(UserError, match=r"24 of 24 prompts got no answer .*503"):
            made.compare(Endpoint(fake.url, "m"), TINY, "down")
    with faking(lambda _: Reply("blue")) as fake:
        with pytest.raises(UserError, match="gives no log-probabilities"):
            made.compare(Endpoint(fake.url, "m"), TINY, "mute")
        assert all(r["logprobs"] is True and r["temperature"] == 0 for r in fake.requests)


def served(tokens: list[str], ids: list[int]) -> parity.Served:
    return parity.Served("r", "".join(tokens), tuple(tokens), tuple(ids), tuple(-0.1 for _ in ids), 7, "stop")


def test_tokens_that_the_engine_dropped_inside_a_character_are_found_again(made: Made) -> None:
    tokenizer = parity.load_tokenizer(made.store.folder(made.weights))
    first, second = tokenizer("ü")["input_ids"]
    (a,) = tokenizer("a")["input_ids"]
    ids, known = parity._tokens(tokenizer, served(["a", "ü", "a", ""], [a, second, a, tokenizer.eos_token_id]))
    assert ids == [a, first, second, a, tokenizer.eos_token_id]
    assert known == [-0.1, None, -0.1, -0.1, -0.1]
    ids, known = parity._tokens(tokenizer, served(["a", "\ufffda", "a"], [a, a, a]))  # its bytes are lost
    assert (ids, known) == ([a], [-0.1])


def test_without_ids_the_text_is_tokenised_again_and_must_fit(made: Made) -> None:
    tokenizer = parity.load_tokenizer(made.store.folder(made.weights))
    expected = tokenizer("sky blue")["input_ids"]
    texts = [tokenizer.decode([i]) for i in expected]
    plain = parity.Served("r", "sky blue", tuple(texts), (None,) * len(texts), (-0.1,) * len(texts), 7, "stop")
    assert parity._tokens(tokenizer, plain) == (expected, [-0.1] * len(texts))
    with pytest.raises(UserError, match="row r: the engine gives no token ids"):
        parity._tokens(tokenizer, msgspec.structs.replace(plain, tokens=("sky blue",), ids=(None,), logprobs=(-0.1,)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('{"a":1}', '{"a":2}', False),
        ('{"a":1}', '{"a":1', False),
        (" blue ", "blue", True),
        ("blue", "Blue", False),
        ("1", "1.0", True),
    ],
)
def test_task_answers_are_compared_as_json_where_they_are_json(one: str, other: str, same: bool) -> None:
    assert parity.same_task_answer(one, other) is same


@pytest.mark.model
def test_on_the_real_model_the_adapter_passes_and_a_merged_four_bit_file_fails(smollm2: Path, tmp_path: Path) -> None:
    from pilothouse.core.messages import Message
    from pilothouse.store.rows import encode
    from pilothouse.tune.gguf_merge import merge

    data = Path(__file__).parents[2] / "examples" / "airline"
    system = (data / "prompts" / "desk.txt").read_text().strip()
    store = Store.open(tmp_path / "store")
    splits = {}
    for split, count in (("train", 200), ("dev", 24)):
        lines = (data / "data" / f"{split}.jsonl").read_bytes().splitlines()[:count]
        chats = [msgspec.json.decode(line)["messages"] for line in lines]
        splits[split] = [
            Row(f"{split}-{i}", tuple(Message(**m) for m in chat[:-1]), chat[-1]["content"])
            for i, chat in enumerate(chats)
        ]
    dataset = store.add_asset("dataset", "airline", {f"{k}.jsonl": encode(v) for k, v in splits.items()})
    model = store.add_asset("model", "smollm2", {"model-q4_1.gguf": smollm2})
    short = Tune(steps=12, batch_size=4, lora_plus_ratio=8, options={"r": 8, "alpha": 16}, eval_every=12, eval_rows=2)
    made = make(model, store, dataset, short, splits["dev"], system)
    settings = Parity(prompts=8, max_tokens=16)
    with serving(made.base_gguf, tmp_path / "log", made.adapter_gguf) as endpoint:
        faithful = made.compare(endpoint, settings, "faithful")
    merge(smollm2, store.folder(made.weights), store.folder(made.adapter), tmp_path / "merged.gguf", "Q4_1")
    with serving(tmp_path / "merged.gguf", tmp_path / "log") as endpoint:
        merged = made.compare(endpoint, settings, "merged")
    answers, probabilities = gates(settings)
    print([(m.name, m.value, m.low, m.high) for r in (faithful, merged) for m in r.measures])
    assert measure(faithful, "prompt_equal").value == 1
    assert judge(probabilities, [faithful]).verdict == "pass"
    assert judge(probabilities, [merged]).verdict == "fail"
    assert judge(answers, [merged]).verdict == "fail"
