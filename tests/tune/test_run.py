"""Training: it learns, it repeats itself, it goes on where it was stopped, and it stops when it diverges."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress, Silent
from pilothouse.core.project.schema import Tune
from pilothouse.store import runs
from pilothouse.store.runs import Run
from pilothouse.store.store import Store
from pilothouse.tune.run import run
from tests.tune import tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def train(home: Path, folder: Path, settings: Tune, progress: Progress | None = None) -> tuple[Store, Run]:
    store = Store.open(home)
    weights, data = tiny.weights(store, folder), tiny.dataset(store)
    inputs = {"weights": weights, "dataset": data}
    plain = settings.model_dump(mode="json")
    done = runs.execute(
        store, "tune", "t", plain, inputs, lambda c: run(c, settings, weights, data, tiny.SYSTEM), progress or Silent()
    )
    return store, done


def curve(done: Run) -> Any:
    assert done.report is not None
    return done.report.details["curve"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    store, done = train(tmp_path_factory.mktemp("unbroken"), tiny_folder, tiny.settings())
    store.close()
    return done


def test_it_learns_and_says_so(unbroken: Run) -> None:
    report = unbroken.report
    assert report is not None
    change = report.measure("tune.eval_loss_change")
    assert change is not None
    assert change.high is not None
    assert change.high < 0
    assert change.n == 8
    steps = [step for step, _ in curve(unbroken)["train"]]
    assert steps == list(range(1, 9))
    assert [step for step, _ in curve(unbroken)["dev"]] == [0, 4, 8]
    assert report.details["example"]["learnt"].endswith("<|im_end|>")
    assert report.plots[0].series[1].low[0] is not None


def test_the_same_settings_give_the_same_adapter(tmp_path: Path, tiny_folder: Path, unbroken: Run) -> None:
    store, done = train(tmp_path, tiny_folder, tiny.settings())
    assert done.outputs == unbroken.outputs
    assert train(tmp_path, tiny_folder, tiny.settings(seed=8))[1].outputs != unbroken.outputs
    config = store.read(store.asset(done.outputs["adapter"]), "adapter_config.json").decode()
    assert str(tiny_folder) not in config
    assert str(tmp_path) not in config


def test_interrupted_and_resumed_it_is_the_unbroken_run(tmp_path: Path, tiny_folder: Path, unbroken: Run) -> None:
    stop = tiny.At(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, tiny_folder, tiny.settings(), stop)
    (folder,) = (tmp_path / "runs").glob("tune-*")
    by_ctrl_c = folder / "checkpoints" / "checkpoint-5" / "complete"  # 5 is no multiple of checkpoint_every
    assert by_ctrl_c.exists()
    on = tiny.At(0, None)
    _, done = train(tmp_path, tiny_folder, tiny.settings(), on)
    assert on.moves == [5, 1, 1, 1]  # five were done, three came new
    assert curve(done) == curve(unbroken)
    assert done.outputs == unbroken.outputs
    assert done.attempts == 2


def test_killed_in_a_checkpoint_it_goes_on_from_the_one_before(
    tmp_path: Path, tiny_folder: Path, unbroken: Run
) -> None:
    class Killed(BaseException):
        """Stands for the process's end: nothing is written after it."""

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(tmp_path, tiny_folder, tiny.settings(), tiny.At(7, kill))
    (folder,) = (tmp_path / "runs").glob("tune-*")
    torn = folder / "checkpoints" / "checkpoint-7"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    _, done = train(tmp_path, tiny_folder, tiny.settings())
    assert "going on from step 6" in (folder / "log.txt").read_text()
    assert curve(done) == curve(unbroken)
    assert done.outputs == unbroken.outputs


def test_killed_after_the_last_step_nothing_is_trained_again(tmp_path: Path, tiny_folder: Path, unbroken: Run) -> None:
    class Dies(tiny.At):
        def begin(self, label: str, total: int | None = None) -> None:
            super().begin(label, total)
            if label == "keeping the adapter":
                raise RuntimeError("out of power")

    with pytest.raises(RuntimeError):
        train(tmp_path, tiny_folder, tiny.settings(), Dies(0, None))
    on = tiny.At(0, None)
    _, done = train(tmp_path, tiny_folder, tiny.settings(), on)
    assert "training" not in on.labels
    assert done.outputs == unbroken.outputs
    assert curve(done) == curve(unbroken)


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(tmp_path: Path, tiny_folder: Path) -> None:
    wild = tiny.settings(steps=40, learning_rate=1e38, checkpoint_every=1, eval_every=100)
    with pytest.raises(
        UserError, match=r"training diverged: the loss of step (\d+) is (nan|inf).*Lower tune.learning_"
    ):
        train(tmp_path, tiny_folder, wild)


def test_a_loss_that_doubles_for_good_stops_the_run(tmp_path: Path) -> None:
    from pilothouse.tune.checkpoints import Curve
    from pilothouse.tune.trainer import Watch

    class Control:
        should_save = should_training_stop = False

    class State:
        global_step = 0

    class Loss:
        loss, tokens, began = 2.0, 10, 0.0

    def follow(losses: list[float], name: str) -> int:
        watch = Watch(Curve(tmp_path / name, 0), [], tiny.settings(), lambda *_, **__: None)
        watch.trainer, state = Loss(), State()  # type: ignore[assignment]
        for state.global_step, watch.trainer.loss in enumerate(losses, 1):
            watch.on_step_end(None, state, Control())
        return state.global_step

    assert follow([2.0, 9.0, 2.0, 2.5, 3.0, 3.9, 3.9, 3.9, 3.9], "noisy") == 9
    with pytest.raises(UserError, match=r"the loss was 2\.00 at first, 5\.00 in the 5 steps up to 8"):
        follow([2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0], "lost")


def test_lora_plus_lets_b_learn_faster(tmp_path: Path, tiny_folder: Path, unbroken: Run) -> None:
    _, done = train(tmp_path, tiny_folder, tiny.settings(lora_plus_ratio=8))
    assert curve(done)["dev"][-1][1] < curve(unbroken)["dev"][-1][1]


def test_an_unknown_method_and_a_long_row_are_the_users_mistakes(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no method is called 'lorra'. Did you mean 'lora'\?"):
        train(tmp_path, tiny_folder, tiny.settings(method="lorra"))
    with pytest.raises(UserError, match="row r0: the row is"):
        train(tmp_path, tiny_folder, tiny.settings(max_tokens=32))
