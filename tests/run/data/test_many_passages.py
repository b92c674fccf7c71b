"""Preparing many passages: no object for each of them, and no work is lost when it is killed."""

import hashlib
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import many_passages
import pytest
from many_passages import SMALL, write_passages

from negcache.run.data import open_task


@pytest.fixture
def small_blocks(monkeypatch):
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)


def in_a_process(cache: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, many_passages.__file__, *map(str, arguments)]
    told = {"NEGCACHE_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, env=os.environ | told, capture_output=True, text=True)


def files_of(cache: Path) -> dict[str, str]:
    [task] = (cache / "tasks").iterdir()
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(task.rglob("*"))
        if path.is_file()
    }


def peak(folder: Path) -> int:
    tracemalloc.start()
    open_task(folder)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_by_an_object_a_passage(tmp_path, small_blocks):
    """An id or a text as a Python string is 350 bytes here; arrays of numbers are allowed."""
    few, many = (write_passages(tmp_path / str(n), n, 40, 300) for n in (300, 1500))
    open_task(write_passages(tmp_path / "first", 100))  # what is imported and kept
    assert (peak(many) - peak(few)) / 1200 < 150


def killed(folder: Path, cache: Path, where: str, count: int) -> None:
    done = in_a_process(cache, folder, where, count)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [parts] = (cache / "tasks").iterdir()
    assert parts.name.endswith(".parts")


def check_goes_on(tmp_path, monkeypatch, cases):
    """After kills at these moments, one after the other, the files are those of no kill."""
    folder = write_passages(tmp_path / "many", 1000)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for where, count in cases:
        killed(folder, broken, where, count)
    monkeypatch.setenv("NEGCACHE_CACHE", str(straight))
    first = open_task(folder)
    monkeypatch.setenv("NEGCACHE_CACHE", str(broken))
    second = open_task(folder)
    assert files_of(straight) == files_of(broken)
    assert first.fingerprint == second.fingerprint


def test_a_killed_preparation_goes_on_and_ends_in_the_same_bytes(
    tmp_path, monkeypatch, small_blocks
):
    check_goes_on(tmp_path, monkeypatch, [("say_written", 3)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        [("_write_part", 3)],  # between two parts
        [("_with_title", 4)],  # within a part
        [("_write_tokens", 1), ("_fingerprint", 1)],  # after the judgements, and at the end
        [("_with_title", 19), ("_with_title", 3), ("say_written", 5), ("say_written", 4)],
    ],
)
def test_killed_at_other_moments_and_again(tmp_path, monkeypatch, small_blocks, cases):
    check_goes_on(tmp_path, monkeypatch, cases)


@pytest.mark.slow
def test_own_memory_of_ten_times_the_passages(tmp_path):
    """Of the whole process, Arrow's and the tokenizer's memory too; maps of files are left out."""
    grown = {}
    for count in (20_000, 200_000):
        folder = write_passages(tmp_path / str(count), count)
        done = in_a_process(tmp_path / "cache", folder)
        assert not done.returncode, done.stderr
        grown[count] = int(done.stdout)
    assert (grown[200_000] - grown[20_000]) / 180_000 < 200
    print(grown)
