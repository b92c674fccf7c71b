"""A BEIR folder, from files to batches."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from folders import CORPUS, QRELS, QUERIES, write_folder, write_parquet_folder

from negcache.errors import InputError
from negcache.run.data import open_task
from negcache.run.data import prepare as preparation

TEXTS = ["Cats purr at night", "dogs bark at the moon", "Birds sing at dawn"]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "small")


def test_every_layout_gives_the_same_task(tmp_path, folder):
    plain = open_task(folder)
    zipped = open_task(write_folder(tmp_path / "zipped", zipped=True))
    arrow = open_task(str(write_parquet_folder(tmp_path / "arrow")))
    assert plain.corpus_text.texts([0, 1, 2]) == TEXTS
    assert plain.fingerprint == zipped.fingerprint == arrow.fingerprint
    assert (plain.name, arrow.name) == ("small", "arrow")


def test_ids_become_rows_and_back(folder):
    task = open_task(folder)
    assert list(task.splits) == ["train", "test"]
    train = task.splits["train"]
    told = zip(
        task.query_text.ids(train.queries),
        task.corpus_text.ids(train.items),
        train.grades.tolist(),
        strict=True,
    )
    assert list(told) == QRELS["train"]
    assert task.query_text.find(["q3", "nobody", "q1"]).tolist() == [2, -1, 0]
    assert task.corpus_text.ids() == ["d1", "d2", "d3"]


def test_tokens_are_what_the_tokenizer_says(folder):
    task = open_task(folder)
    bags = task.corpus[torch.tensor([1])]
    assert bags.tokens.tolist() == task.tokenizer.encode(TEXTS[1]).ids
    assert int(bags.tokens.max()) < task.vocab_size
    cut = open_task(folder, max_tokens=2)
    assert cut.corpus.lengths(torch.arange(3)).tolist() == [2, 2, 2]
    assert len(cut.tokenizer.encode(TEXTS[1]).ids) == 2
    assert cut.fingerprint != task.fingerprint


def test_the_tokenizer_learns_nothing_from_test_queries(tmp_path):
    queries = [*QUERIES[:2], {"_id": "q3", "text": "zz zz zz zz"}]
    seen = open_task(write_folder(tmp_path / "seen", queries=queries))
    assert not any("zz" in token for token in seen.tokenizer.get_vocab())
    qrels = {"train": [*QRELS["train"], ("q3", "d3", 1)]}
    learnt = open_task(write_folder(tmp_path / "learnt", queries=queries, qrels=qrels))
    assert any("zz" in token for token in learnt.tokenizer.get_vocab())


def test_batches_are_one_shuffled_epoch(tmp_path):
    corpus = [{"_id": f"d{i}", "text": f"item number {i}"} for i in range(10)]
    queries = [{"_id": f"q{i}", "text": f"query number {i}"} for i in range(10)]
    pairs = [(f"q{i}", f"d{9 - i}", 1) for i in range(10)]
    task = open_task(write_folder(tmp_path / "ten", corpus, queries, {"train": pairs}))
    epochs = [list(task.batches("train", 3, torch.Generator().manual_seed(7))) for _ in range(2)]
    assert [len(batch.positives) for batch in epochs[0]] == [3, 3, 3]
    ids = torch.cat([torch.as_tensor(batch.query_ids) for batch in epochs[0]])
    assert len(ids.unique()) == 9
    assert ids.tolist() != sorted(ids.tolist())
    for first, second in zip(*epochs, strict=True):
        assert torch.equal(first.positives, 9 - first.query_ids)
        assert torch.equal(first.positives, second.positives)
        assert torch.equal(first.queries.tokens, task.queries[first.query_ids].tokens)


def test_known_positives_are_those_of_the_split(folder):
    task = open_task(folder)
    known = task.known_positives()
    assert isinstance(known.items, np.memmap)
    assert known.exclusion(torch.tensor([1, 2]), torch.tensor([2, 0])).ids.tolist() == [1, 2, 0]
    assert task.known_positives("test").items.tolist() == [2]


def test_a_second_start_prepares_nothing(folder, monkeypatch):
    first = open_task(folder)
    monkeypatch.setattr("negcache.run.data.open.prepare", None)
    assert open_task(folder).fingerprint == first.fingerprint


def test_a_changed_file_is_prepared_anew(folder):
    first = open_task(folder)
    (folder / "corpus.jsonl").write_text(
        (folder / "corpus.jsonl").read_text().replace("moon", "mood")
    )
    second = open_task(folder)
    assert second.corpus_text.texts([1]) == ["dogs bark at the mood"]
    assert second.fingerprint != first.fingerprint


def test_verify_finds_a_change_that_size_and_time_hide(folder):
    open_task(folder)
    open_task(folder, verify=True)
    path = folder / "corpus.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("moon", "mood"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_task(folder)
    with pytest.raises(InputError, match=r"corpus.jsonl as it was prepared .* unchanged"):
        open_task(folder, verify=True)


def test_a_refused_preparation_leaves_nothing(tmp_path, cache_of_this_test):
    folder = write_folder(tmp_path / "twice", corpus=[*CORPUS, CORPUS[0]])
    with pytest.raises(InputError, match="distinct ids"):
        open_task(folder)
    assert list((cache_of_this_test / "tasks").iterdir()) == []


def test_an_interrupted_preparation_is_gone_on_with(folder, cache_of_this_test, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "make_tokenizer", stop)
        with pytest.raises(KeyboardInterrupt):
            open_task(folder)
    [parts] = (cache_of_this_test / "tasks").iterdir()
    text = parts / "corpus" / "000000.arrow"
    written = text.stat().st_mtime_ns
    task = open_task(folder)
    [done] = (cache_of_this_test / "tasks").iterdir()
    assert (done / "corpus" / "000000.arrow").stat().st_mtime_ns == written
    assert task.corpus_text.texts([0, 1, 2]) == TEXTS


def test_parts_of_other_content_are_not_gone_on_from(folder, monkeypatch):
    """Of the same size and time, so that the folder is the same."""
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "make_tokenizer", None)
        with pytest.raises(TypeError):
            open_task(folder)
    path = folder / "corpus.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("moon", "mood"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_task(folder).corpus_text.texts([1]) == ["dogs bark at the mood"]


def test_of_two_at_once_one_prepares_and_the_other_waits(folder, cache_of_this_test, monkeypatch):
    begun, calls = threading.Event(), []

    def slowly(tables, aside, settings, *, strict):
        calls.append(aside)
        begun.set()
        time.sleep(0.2)  # the other has come to wait
        preparation.prepare(tables, aside, settings, strict=strict)

    monkeypatch.setattr("negcache.run.data.open.prepare", slowly)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(open_task, folder)
        begun.wait(10)
        second = threads.submit(open_task, folder)
        assert first.result().fingerprint == second.result().fingerprint
    assert len(calls) == len(list((cache_of_this_test / "tasks").iterdir())) == 1


def test_texts_and_items_without_tokens_are_not_learnt_from(tmp_path):
    corpus = [*CORPUS, {"_id": "d4", "title": "", "text": " "}]
    qrels = {"train": [*QRELS["train"], ("q1", "d4", 1)]}
    with pytest.warns(UserWarning, match="1 items without text"):
        task = open_task(write_folder(tmp_path / "gaps", corpus=corpus, qrels=qrels))
    assert len(task.splits["train"]) == 4
    batches = task.batches("train", 1, torch.Generator())
    assert sorted(int(batch.positives) for batch in batches) == [0, 1, 2]
