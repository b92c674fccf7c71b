"""Batches made ahead in worker processes are those made here, and so are the errors."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from shards import TOTAL, damage, ids_of, open_shards, pairs, write_shards
from tokenizers import Tokenizer, models, pre_tokenizers

from negcache.errors import InputError
from negcache.run.data.streams import PreparedBatches, TextsById, ToBags, Tokenize
from negcache.run.data.streams.batch import StreamBatch

PER_EPOCH = TOTAL // 10


def ids(batch: StreamBatch):
    return batch.item_ids.tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(folder, workers):
    expected = ids_of(open_shards(folder), 5, 30)
    noise = torch.get_rng_state()
    with PreparedBatches(open_shards(folder), ids, 5, 30, num_workers=workers) as batches:
        assert list(batches) == expected
        assert list(batches) == []
    assert torch.equal(torch.get_rng_state(), noise)
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_it_goes_on_for_ever_until_it_is_closed(folder):
    batches = PreparedBatches(open_shards(folder), ids, 3, num_workers=2)
    assert [next(batches) for _ in range(40)] == ids_of(open_shards(folder), 3, 43)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    batches.close()
    assert next(batches, None) is None


def test_what_spawned_workers_make_is_the_same(folder):
    stream = open_shards(folder, read_ahead=True)
    stream.batch(0)  # its thread goes to no other process
    with PreparedBatches(stream, ids, 0, 4, num_workers=1, context="spawn") as batches:
        assert list(batches) == ids_of(open_shards(folder), 0, 4)
    stream.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_are_told_in_the_same_words(tmp_path, workers):
    folder = write_shards(tmp_path / "shards")
    damage(folder / "part-1.parquet", 2)
    with pytest.raises(InputError) as here:
        ids_of(open_shards(folder), 0, PER_EPOCH)
    with pytest.raises(InputError) as told:
        list(PreparedBatches(open_shards(folder), ids, 0, num_workers=workers))
    assert str(told.value) == str(here.value)
    assert told.value.remedy == here.value.remedy


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_row_group_is_warned_of_once(tmp_path, workers):
    folder = write_shards(tmp_path / "shards")
    whole = ids_of(open_shards(folder), 0, 2 * PER_EPOCH)
    damage(folder / "part-1.parquet", 2)
    gone = range(23 + 14, 23 + 21)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        stream = open_shards(folder, skip_broken=True)
        with PreparedBatches(stream, ids, 0, 2 * PER_EPOCH, num_workers=workers) as batches:
            found = list(batches)
    assert [str(one.message).partition(":")[0] for one in told] == ["Skipped 7 rows"]
    assert found == [[one for one in batch if one not in gone] for batch in whole]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_id_with_two_texts_is_found_whoever_read_it(tmp_path, workers):
    def rows(first, size):
        return pairs(first, size) | {"item": [i % 60 for i in range(first, first + size)]}

    stream = open_shards(write_shards(tmp_path / "shards", rows=rows))
    batches = PreparedBatches(stream, ids, 0, num_workers=workers, texts=TextsById())
    with pytest.raises(InputError, match="one text for each item id; got two for"):
        list(batches)


def test_workers_end_when_the_loop_is_left(folder):
    def loop():
        with PreparedBatches(open_shards(folder), ids, 0, num_workers=2) as batches:
            for batch in batches:
                raise RuntimeError(f"of the step, {len(batch)} rows")

    with pytest.raises(RuntimeError, match="of the step, 10 rows"):
        loop()


def wrong(batch: StreamBatch):
    raise KeyError(batch.number)


def test_workers_end_when_one_fails_or_is_killed(folder):
    with pytest.raises(KeyError) as told:
        list(PreparedBatches(open_shards(folder), wrong, 0, num_workers=2))
    assert not multiprocessing.active_children(), "as long as the traceback is there"
    assert "in DataLoader worker process" in str(told.value)
    batches = PreparedBatches(open_shards(folder), ids, 0, num_workers=1)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker \(pid.* (killed|exited)"):
        list(batches)


def test_tokens_are_those_of_the_tokenizer(folder):
    words = {word: number for number, word in enumerate(["[UNK]", "text", "query", "1", "2"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with PreparedBatches(
        open_shards(folder), Tokenize(ToBags(tokenizer)), 0, 3, num_workers=1
    ) as batches:
        for number, made in enumerate(batches):
            batch = open_shards(folder).batch(number)
            assert made.number == number
            assert torch.equal(made.item_ids, batch.item_ids)
            assert made.items.tokens[made.items.starts].tolist() == [1] * 10
            assert made.queries.tokens[made.queries.starts].tolist() == [2] * 10
            numbers = [words.get(text.split()[1], 0) for text in batch.texts]
            assert made.items.tokens[made.items.starts + 1].tolist() == numbers


SCRIPT = """
import signal, sys, time
from multiprocessing import active_children
from negcache.run.data.streams import PreparedBatches, Stream

stopped = []
if sys.argv[2] == "gently":
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
stream = Stream.open(sys.argv[1], batch_size=10, seed=0)
with PreparedBatches(stream, len, 0, num_workers=2) as batches:
    for number, _ in enumerate(batches):
        if number == 3:
            print(*[child.pid for child in active_children()], flush=True)
        if stopped:
            print("stopped after a step", next(batches), flush=True)
            break
        time.sleep(0.01)
print("children", len(active_children()))
"""


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) for how in ("at once", "gently", "killed")]
)
def test_no_worker_outlives_its_run(folder, tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script, folder, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    if how == "killed":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, errors = run.communicate(timeout=60)
    if how == "gently":
        assert out.splitlines() == ["stopped after a step 10", "children 0"]
        assert not errors
    if how == "at once":
        assert re.search(r"KeyboardInterrupt\s*$", errors), errors
    for pid in workers:
        ended(pid)


def ended(pid):
    """Wait for a process to be gone, or to be waited for by whoever inherited it."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} is still there")
