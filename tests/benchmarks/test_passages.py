"""Passages: stretches of texts, each with the one that comes next."""

import torch

from benchmarks.datasets import passages
from benchmarks.datasets.corpora import Document
from negcache.run.data import open_task

FIRST = Document("a", "train", ["one two three four five six", "seven eight nine ten eleven"])
SAME = Document("b", "test", ["one two three four and more words", "than these"])
SHORT = Document("c", "dev", ["two words"])


def test_stretches_follow_each_other_and_no_text_comes_twice():
    found = list(passages.passages([FIRST, SAME, SHORT], 4))
    assert [(one.text, one.split, one.follows) for one in found] == [
        ("one two three four", "train", False),
        ("five six seven eight", "train", True),
        ("and more words than", "test", False),
    ]


def test_an_answer_is_the_row_after_its_query(tmp_path, monkeypatch):
    texts = [" ".join(f"w{n}x{i}" for i in range(30)) for n in range(20)]
    documents = [Document(f"{n}", passages.SPLITS[n % 3], [text]) for n, text in enumerate(texts)]
    monkeypatch.setattr(passages, "PARTS", {"some": lambda cache: iter(documents)})
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path / "cache"))
    task = open_task(passages.write_passages(tmp_path / "out", words=10))
    assert (len(task.corpus), len(task.queries)) == (60, 40)
    for judged in task.splits.values():
        rows = torch.tensor([int(one) for one in task.query_text.ids(judged.queries)])
        assert torch.equal(rows + 1, judged.items)
        before = task.corpus_text.texts(judged.items - 1)
        assert task.query_text.texts(judged.queries) == before
