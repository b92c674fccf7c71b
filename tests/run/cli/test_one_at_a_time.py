"""A run folder: one process works on it, nothing is written through links, formats are told."""

import fcntl
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.soak import write_task
from negcache.run.cli import runs
from negcache.run.formats import check_format

CONFIG = """\
steps = 6
batch_size = 16
device = "cpu"
data = {{ source = "{source}", vocab_size = 400 }}
tower = {{ dim = 8 }}
sampler = {{ name = "uniform" }}
"""


@pytest.fixture(scope="module")
def trained(small, call):
    run = small / "kept"
    done = call("train", small / "small.toml", "--out", run)
    assert done.exit_code == 0, (done.output, done.exception)
    return run


@pytest.fixture(scope="module")
def call():
    """As in conftest, for the whole module."""
    from typer.testing import CliRunner

    from negcache.run.cli.app import app

    def invoke(*words, **more):
        return CliRunner().invoke(app, [str(word) for word in words], **more)

    return invoke


@pytest.fixture
def run(trained, tmp_path):
    """A copy to do with as one likes."""
    return shutil.copytree(trained, tmp_path / "run")


@contextmanager
def held(run):
    """As another process holds it."""
    told = {"pid": 4711, "host": "elsewhere", "since": "2026-01-01", "command": "negcache resume"}
    (run / "lock").write_text(json.dumps(told))
    with (run / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_who_holds_a_run_is_told(run, refused, call, tmp_path):
    before = (run / "metrics.jsonl").read_bytes()
    commands = (
        ("resume", run),
        ("evaluate", run),
        ("evaluate", run, "--out", tmp_path / "out"),
        ("export", run, tmp_path / "model"),
    )
    with held(run):
        for words in commands:
            told = refused(*words)
            assert "no other process" in told
            assert "process 4711 on elsewhere since 2026-01-01 (negcache resume)" in told
        assert call("search", run, "word1").exit_code == 0  # it only reads
    assert (run / "metrics.jsonl").read_bytes() == before
    assert call("evaluate", run).exit_code == 0
    assert json.loads((run / "lock").read_text())["pid"] == os.getpid()
    (run / ".config.json.part-0a1b2c3d-1").touch()  # of one that was killed
    assert call("evaluate", run).exit_code == 0
    assert not list(run.rglob(".*.part-*"))


def test_of_two_that_begin_at_once_one_does(small, call, refused, tmp_path, monkeypatch):
    """The other comes while the first has its data opened: it takes nothing away."""
    run, opened = tmp_path / "run", runs.open_source

    def slowly(config, folder):
        found = opened(config, folder)
        if not folder.exists():
            folder.mkdir()
            (folder / "config.json").write_text("{}")
        return found

    monkeypatch.setattr(runs, "open_source", slowly)
    assert "does not exist yet" in refused("train", small / "small.toml", "--out", run)
    assert (run / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["evaluation/test.json", "evaluation", "metrics.jsonl", "index"])
def test_nothing_is_written_through_a_link(run, refused, tmp_path, name):
    outside = tmp_path / "outside"
    if "." in name:
        outside.write_text("precious")
    else:
        outside.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    for words in (("evaluate", run), ("resume", run), ("search", run, "word1")):
        assert f"{run / name}, a link to {outside}" in refused(*words)
    assert outside.read_text() == "precious" if "." in name else not list(outside.iterdir())


def test_a_file_is_replaced_not_written_into(run, call, monkeypatch):
    """So a reader has the old one or the new one, and a hard link keeps what it had."""
    assert call("evaluate", run).exit_code == 0
    kept = run.parent / "kept.json"
    os.link(run / "evaluation" / "test.json", kept)
    before = kept.read_text()
    assert call("evaluate", run, "--checkpoint", "3").exit_code == 0
    assert kept.read_text() == before
    assert json.loads((run / "evaluation" / "test.json").read_text())["step"] == 3


@pytest.fixture
def read_only(call, monkeypatch):
    """A run that may not be written to, by somebody who is not root, and a folder that may."""
    home = Path(tempfile.mkdtemp())
    monkeypatch.setenv("NEGCACHE_CACHE", str(home / "cache"))
    (home / "small.toml").write_text(CONFIG.format(source=write_task(home / "task")))
    done = call("train", home / "small.toml", "--out", home / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    (home / "free").mkdir()
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (home / "free").chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield home / "run", home / "free"
    if user == 0:
        os.seteuid(0)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(home)


def test_a_read_only_run_is_measured_and_searched(read_only, refused, call):
    run, free = read_only
    told = refused("evaluate", run)
    assert "Permission denied" in told
    assert "--out" in told
    assert "Permission denied" in refused("resume", run)
    assert "Permission denied" in refused("evaluate", run, "--out", run / "more")
    done = call("evaluate", run, "--out", free / "found")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((free / "found" / "test.json").read_text())["step"] == 6
    with pytest.warns(UserWarning, match="the index is not kept.*Permission denied.*--out"):
        assert call("search", run, "word1 word2").exit_code == 0
    assert call("search", run, "word1 word2", "--out", free / "index").exit_code == 0
    assert [path.name for path in (free / "index").iterdir()] == ["step-000000006"]


def test_an_index_is_of_one_checkpoint_of_one_run(run, call, small, tmp_path):
    """Another run of the same data and step has rows of its own."""
    other, words = tmp_path / "other", ("--set", "seed=1")
    assert call("train", small / "small.toml", *words, "--out", other).exit_code == 0
    alone = call("search", other, "word1 word2").stdout
    assert call("search", run, "word1 word2", "--out", tmp_path / "index").exit_code == 0
    assert call("search", other, "word1 word2", "--out", tmp_path / "index").stdout == alone


@pytest.mark.parametrize(
    ("path", "found", "told"),
    [
        ("config.json", 2, r"format 1 in \S*config.json; got 2, of a newer negcache.*pip install"),
        ("config.json", None, r"format 1 in \S*config.json; got none, of an older negcache"),
        ("config.json", True, r"got True"),
        ("checkpoints/step-000000006/manifest.json", 2, r"manifest.json; got 2, of a newer"),
        ("checkpoints/step-000000006/manifest.json", None, r"manifest.json; got none, of an older"),
    ],
)
def test_another_format_is_refused_by_name(run, refused, path, found, told):
    values = json.loads((run / path).read_text())
    assert values["format"] == 1
    (run / path).write_text(json.dumps(values | {"format": found}))
    for words in (("resume", run), ("resume", run, "--fall-back"), ("evaluate", run)):
        assert re.search(told, refused(*words))
    assert not list(run.rglob("*.damaged"))


def test_a_known_format_is_taken():
    check_format(3, 3, Path("x"))
