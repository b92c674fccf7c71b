"""Texts as a corpus: what is tokenized, cut, counted."""

import warnings

import pytest
import torch

from negcache.errors import InputError
from negcache.interfaces import Corpus
from negcache.run.data.tables import QUERIES
from negcache.run.data.texts import write_texts
from negcache.towers.text_corpus import TextCorpus

TEXTS = [
    "purr",
    "a dog barks at the moon",
    "birds sing",
    "cats and dogs and birds and mice and cows",
]


def test_it_is_a_corpus_and_pads_to_the_longest_of_the_batch(tower):
    corpus = TextCorpus(TEXTS, tower)
    assert isinstance(corpus, Corpus)
    assert len(corpus) == 4
    features = corpus[torch.tensor([2, 0])]
    assert features["input_ids"].shape == (2, 4)
    assert features["attention_mask"].sum(dim=1).tolist() == [4, 4]
    assert corpus[torch.tensor([0, 1])]["attention_mask"].sum(dim=1).tolist() == [4, 9]
    torch.testing.assert_close(
        tower(corpus[torch.tensor([3, 1])]), tower(tower.tokenize([TEXTS[3], TEXTS[1]]))
    )


def test_texts_may_stay_on_disk(tower, tmp_path):
    import pyarrow as pa

    columns = [["a", "b", "c", "d"], TEXTS]
    table = write_texts(tmp_path / "t.arrow", [pa.record_batch(columns, schema=QUERIES)])
    ids = torch.tensor([3, 1, 1])
    on_disk, in_memory = TextCorpus(table, tower)[ids], TextCorpus(TEXTS, tower)[ids]
    assert torch.equal(on_disk["input_ids"], in_memory["input_ids"])
    assert on_disk["input_ids"].shape == (3, 11)


def test_a_plain_tokenizer_does_as_well(tower):
    own = TextCorpus(TEXTS, tower, prompt="find: ", max_length=7)
    bare = TextCorpus(TEXTS, tower.model.tokenizer, prompt="find: ", max_length=7)
    ids = torch.tensor([0, 2])
    assert torch.equal(own[ids]["input_ids"], bare[ids]["input_ids"])


def test_cut_texts_are_counted_once_and_told_of_once(tower):
    corpus = TextCorpus(TEXTS, tower, max_length=9)
    corpus[torch.tensor([0, 1])]  # 4 and 9 tokens: as long as may be
    assert corpus.num_truncated == 0
    with pytest.warns(UserWarning, match=r"longer than the 9 tokens.*1 of the first 2"):
        features = corpus[torch.tensor([3, 0])]
    assert features["input_ids"].shape == (2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus[torch.tensor([3, 3])]
    assert corpus.num_truncated == 1


def test_bad_input_is_refused(tower):
    with pytest.raises(InputError, match=r"512 positions.*got 513"):
        TextCorpus(TEXTS, tower, max_length=513)
    with pytest.raises(InputError, match="at least one id"):
        TextCorpus(TEXTS, tower)[torch.tensor([], dtype=torch.int64)]
    with pytest.raises(IndexError):
        TextCorpus(TEXTS, tower)[torch.tensor([4])]
