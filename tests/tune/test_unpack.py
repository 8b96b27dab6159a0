"""A GGUF becomes weights with the same values and the same tokens; what is no model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.core.records import Asset
from pilothouse.store import runs
from pilothouse.store.store import Store
from pilothouse.tune import gguf_base, pretokenizer
from pilothouse.tune.run import load_model, load_tokenizer
from pilothouse.tune.unpack import gguf_file, run
from tests.tune import tiny


def unpack(store: Store, model: Asset) -> runs.Run:
    return runs.execute(store, "unpack", "t", {}, {"model": model}, lambda c: run(c, model), Silent())


@pytest.fixture(scope="module")
def unpacked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Asset, Path]:
    home = tmp_path_factory.mktemp("unpack")
    gguf_base.write(tiny_folder, home / "tiny.gguf", "F16", title="tiny", done=lambda: None)
    store = Store.open(home / "store")
    model = store.add_asset("model", "tiny", {"tiny.gguf": home / "tiny.gguf"}, licence="MIT")
    done = unpack(store, model)
    weights = runs.output(store, done, "weights")
    return weights, store.folder(weights)


def test_the_weights_are_those_of_the_file(unpacked: tuple[Asset, Path], tiny_folder: Path) -> None:
    asset, folder = unpacked
    assert asset.licence == "MIT"
    ids = torch.tensor([[1, 40, 77, 120, 9]])
    with torch.no_grad():
        one, other = load_model(folder)(ids).logits, load_model(tiny_folder)(ids).logits
    torch.testing.assert_close(one, other, atol=0.02, rtol=0.01)
    assert load_model(folder).dtype == torch.float32


@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[a-z ]{0,5}[0-9]{1,8}[ :.,-]?[0-9]{0,4}", fullmatch=True)))
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tokenizer_cuts_as_the_original_did(unpacked: tuple[Asset, Path], tokenizer: Any, text: str) -> None:
    again = _tokenizer(unpacked[1])
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


_CACHE: dict[Path, Any] = {}


def _tokenizer(folder: Path) -> Any:
    if folder not in _CACHE:
        _CACHE[folder] = load_tokenizer(folder)
    return _CACHE[folder]


def test_the_chat_template_is_kept(unpacked: tuple[Asset, Path], tokenizer: Any) -> None:
    assert _tokenizer(unpacked[1]).chat_template == tokenizer.chat_template


def test_the_same_file_gives_the_same_weights_on_any_machine(
    unpacked: tuple[Asset, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    gguf_base.write(tiny_folder, tmp_path / "tiny.gguf", "F16", title="tiny", done=lambda: None)
    store = Store.open(tmp_path / "elsewhere")
    model = store.add_asset("model", "tiny", {"tiny.gguf": tmp_path / "tiny.gguf"})
    assert unpack(store, model).outputs["weights"] == unpacked[0].digest


def test_the_hugging_face_layout_passes(store: Store, tiny_folder: Path) -> None:
    model = tiny.weights(store, tiny_folder)
    assert unpack(store, model).outputs["weights"] == model.digest


def test_what_is_no_model_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="neither a GGUF file nor"):
        unpack(store, store.add_asset("model", "x", {"notes.txt": b"hello"}))
    with pytest.raises(UserError, match="not a readable GGUF file"):
        unpack(store, store.add_asset("model", "y", {"y.gguf": b"no gguf at all, but long enough to read a header"}))
    with pytest.raises(UserError, match="holds 2 GGUF files"):
        gguf_file(store.add_asset("model", "z", {"a.gguf": b"a", "b.gguf": b"b"}))


def test_the_rule_of_a_tokenizer_is_recognised(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    assert pretokenizer.name_of(tiny_folder / "tokenizer.json") == "smollm"
    for name in ("llama-bpe", "qwen2"):
        split = {"type": "Split", "pattern": {"Regex": GGUF_PRE_TOKENIZER_SPLITS[name]}, "behavior": "Isolated"}
        rule = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
        path = tmp_path / f"{name}.json"

        path.write_bytes(msgspec.json.encode({"pre_tokenizer": rule}))
        assert pretokenizer.name_of(path) == name
    assert not pretokenizer.put_right(tiny_folder / "tokenizer.json", "from-mars")


@pytest.mark.model
def test_smollm2_is_read_token_by_token_as_llama_cpp_reads_it(smollm2: Path, tmp_path: Path) -> None:
    import json
    import urllib.request

    from tests.tune.engine import serving

    store = Store.open(tmp_path / "home")
    weights = runs.output(store, unpack(store, store.add_asset("model", "smollm2", {"m.gguf": smollm2})), "weights")
    tokenizer = load_tokenizer(store.folder(weights))
    texts = [
        "is it too late to cancel eduuws for 25 august?",
        "2024-11-03 07:15",
        "a  b\n\n c",
        "Zürich €120.50 ½ 😀",
        "x=1e-5",
    ]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "On 25 August 2026?"}]
    with serving(smollm2, tmp_path / "log") as endpoint:

        def ask(path: str, body: dict[str, Any]) -> Any:
            request = urllib.request.Request(
                endpoint.url + path,
                json.dumps(body).encode(),
                {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        for text in texts:
            assert ask("/tokenize", {"content": text})["tokens"] == tokenizer(text)["input_ids"], text
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ask("/apply-template", {"messages": chat})["prompt"] == rendered
