"""Ctrl-C and SIGTERM, whenever they come: a message, their exit code, nothing lost or left."""

import os
import signal

import pytest

from benchmarks.soak import result
from negcache import SoftmaxLoss
from negcache.run.cli import retriever, runs
from negcache.run.training import fill

NUMBERS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}
MORE = ("--set", "eval_every=2", "--set", "save_best=mrr10", "--set", "log_every=2")


@pytest.fixture(autouse=True)
def _default_handlers():
    """Whoever started the tests may ignore signals, as a shell does in the background."""
    kinds = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in kinds.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def whole(small, call):
    run = small / "whole"
    if not run.exists():
        done = call("train", small / "small.toml", *MORE, "--out", run)
        assert done.exit_code == 0, (done.output, done.exception)
    return run


@pytest.fixture
def send(monkeypatch):
    """Have a function send a signal when it is called for the ``nth`` time."""

    def make(place, name, number, nth=1):
        inner, calls = getattr(place, name), []

        def sends(*args, **kwargs):
            calls.append(1)
            if len(calls) == nth:
                os.kill(os.getpid(), number)
            return inner(*args, **kwargs)

        monkeypatch.setattr(place, name, sends)

    return make


@pytest.mark.parametrize("name", NUMBERS)
def test_an_evaluation(whole, call, send, monkeypatch, name):
    number, code = NUMBERS[name]
    assert call("evaluate", whole).exit_code == 0
    before = files(whole)
    with monkeypatch.context():
        send(retriever, "evaluate", number)
        done = call("evaluate", whole)
    assert done.exit_code == code, (done.output, done.exception)
    assert f"Stopped by {signal.Signals(number).name}; nothing is half written" in done.stderr
    assert done.stdout == ""
    assert files(whole) == before
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_an_export(whole, call, send, tmp_path, monkeypatch):
    from negcache.towers import static_model

    with monkeypatch.context():
        send(static_model, "StaticEmbedding", signal.SIGTERM)
        done = call("export", whole, tmp_path / "out")
        assert done.exit_code == 143, (done.output, done.exception)
    assert not list(tmp_path.iterdir())


def test_a_run_before_it_begins(small, call, send, tmp_path):
    send(runs, "build", signal.SIGINT)
    done = call("train", small / "small.toml", "--out", tmp_path / "run")
    assert done.exit_code == 130, (done.output, done.exception)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_while_it_trains(small, whole, call, send, tmp_path):
    """It is given up at once, and made by the process that goes on."""
    number, code = NUMBERS["SIGTERM"]
    run = tmp_path / "run"
    send(retriever, "evaluate", number, nth=2)
    done = call("train", small / "small.toml", *MORE, "--out", run)
    assert done.exit_code == code, (done.output, done.exception)
    assert f"To go on: negcache resume {run}" in done.stderr
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-000000004"
    assert '"step": 4' not in (run / "metrics.jsonl").read_text()
    assert call("resume", run).exit_code == 0
    assert result(run) == result(whole)


@pytest.fixture
def by_fifties(monkeypatch):
    """A fill of 240 items in five parts, and how many were encoded."""
    inner, encoded = SoftmaxLoss.fill_cache, []

    def fill_cache(self, batch_size=50, progress=iter):
        encoded.append(len(self.store.missing()))
        inner(self, 50, progress)

    monkeypatch.setattr(SoftmaxLoss, "fill_cache", fill_cache)
    return encoded


@pytest.mark.parametrize(
    ("name", "settings"), [("Ctrl-C", ()), ("SIGTERM", ("--set", "cache.on_disk=true"))]
)
def test_a_fill_goes_on_where_it_was(
    small, whole, call, send, tmp_path, monkeypatch, by_fifties, name, settings
):
    """Stopped by a signal, then killed; the counts of what was encoded are those of one process."""
    number, code = NUMBERS[name]
    run = tmp_path / "run"
    with monkeypatch.context():
        send(fill, "perf_counter", number, nth=3)  # after the second part
        done = call("train", small / "small.toml", *MORE, *settings, "--out", run)
    assert done.exit_code == code, (done.output, done.exception)
    assert f"To go on: negcache resume {run}" in done.stderr
    (kept,) = (run / "fill" / "0").iterdir()
    assert kept.name == "step-000000100"
    assert call("resume", run).exit_code == 0
    assert by_fifties == [240, 140]
    assert not (run / "fill").exists()
    wanted, found = result(whole), result(run)
    if not settings:  # rows on disk are in no checkpoint
        assert found == wanted
    assert found["metrics"] == wanted["metrics"]


def test_a_fill_is_kept_now_and_then(small, whole, call, tmp_path, monkeypatch, by_fifties):
    """A kill costs what has been encoded since; training from there is that of one process."""
    run, clock = tmp_path / "run", iter(range(0, 10_000, 200))
    monkeypatch.setattr(fill, "perf_counter", lambda: next(clock))
    saved = []

    def save(self, step, state, best=None):
        saved.append((self.folder.name, step))
        inner(self, step, state, best)
        if len(saved) == 2:
            raise SystemExit(9)

    inner = fill.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(fill.Checkpoints, "save", save)
        assert call("train", small / "small.toml", *MORE, "--out", run).exit_code == 9
    assert saved == [("0", 100), ("0", 200)]
    assert call("resume", run).exit_code == 0
    assert by_fifties == [240, 40]
    assert result(run) == result(whole)
