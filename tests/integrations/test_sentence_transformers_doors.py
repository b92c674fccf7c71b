"""Data and corpora that cannot be meant are refused by name, before anything is encoded."""

import pytest
from datasets import Dataset, DatasetDict, Features, IterableDatasetDict, List, Value
from sentence_models import asked_and_meant, words_and_meanings

from negcache.errors import InputError
from negcache.integrations.sentence_transformers import corpus_pairs

WORDS, MEANINGS = words_and_meanings()
IDS = [f"d{number}" for number in range(len(MEANINGS))]


def refused(message, data, corpus):
    data = Dataset.from_dict(data) if type(data) is dict else data
    with pytest.raises(InputError, match=message):
        corpus_pairs(data, corpus)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "at least 2 items; got 0"),
        ({}, "at least 2 items; got 0"),
        (["x", "x"], "at least 2 items; got 1"),
        ("xy", "list of texts.*got str"),
        ({"x", "y"}, "list of texts.*got set"),
        (["x", "y", None, 3], "NoneType for id 2, and 1 more"),
        ({"d0": "x", "d1": ["y"]}, "list for id 'd1'"),
        (
            DatasetDict(corpus=Dataset.from_dict({"text": ["x", "y"]})),
            "got DatasetDict.*its splits",
        ),
        (Dataset.from_dict({"text": ["x", "y"]}).to_iterable_dataset(), "got IterableDataset"),
        (Dataset.from_dict({"text": ["x", None, "y"]}), "NoneType for id 1"),
    ],
)
def test_a_corpus_that_is_none(corpus, message):
    refused(message, {"q": ["a"], "p": ["x"]}, corpus)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DatasetDict(), "splits of a data set"),
        (DatasetDict(train=asked_and_meant(), dev=asked_and_meant().select([])), "0 rows in 'dev'"),
        (
            IterableDatasetDict(train=asked_and_meant().to_iterable_dataset()),
            "IterableDataset as 'train'",
        ),
        ({"q": ["a", "b", None], "p": MEANINGS[:3]}, "NoneType in row 2 of 'q', and in 0 more"),
        ({"q": [["a"], ["b"]], "p": MEANINGS[:2]}, "list in row 0 of 'q', and in 1 more"),
        ({"q": ["a"], "p": [MEANINGS[:2]]}, "one text or id in each row of column 'p'.*a list"),
        ({"q": ["a"], "p": [{"text": "x"}]}, "a dict"),
    ],
)
def test_data_that_is_none(data, message):
    refused(message, data, MEANINGS)


@pytest.mark.parametrize("kind", ["mapping", "dataset"])
def test_ids_of_another_kind_are_told_beside_those_of_the_corpus(kind):
    corpus = dict(zip(IDS, MEANINGS, strict=True))
    if kind == "dataset":
        corpus = Dataset.from_dict({"_id": IDS, "text": MEANINGS})
    data = {"q": WORDS, "p": list(range(len(WORDS)))}
    refused(r"0, which is none of its 60 items \(ids such as 'd0'.* 59 more", data, corpus)


def test_one_wrong_id_is_not_told_as_many():
    corpus = dict(zip(IDS, MEANINGS, strict=True))
    refused("'d99', which .* and 0 more", {"q": WORDS[:3], "p": ["d0", "d99", "d2"]}, corpus)


def test_two_texts_of_one_id_are_refused_and_the_same_text_twice_is_not():
    data = Dataset.from_dict({"q": ["a"], "p": ["d1"]})
    twice = Dataset.from_dict({"_id": ["d0", "d1", "d1"], "text": ["x", "y", "z"]})
    refused("several for 'd1'", data, twice)
    again = Dataset.from_dict({"_id": ["d0", "d1", "d1"], "text": ["x", "y", "y"]})
    assert corpus_pairs(data, again).corpus == ["x", "y"]


def test_what_the_text_of_a_corpus_is_must_be_clear():
    data = Dataset.from_dict({"q": ["a"], "p": ["d1"]})
    beir = {"_id": ["d0", "d1"], "title": ["X", ""], "text": ["x", "y"]}
    refused("join title and text", data, Dataset.from_dict(beir))
    refused("rename the column of ids", data, Dataset.from_dict({"docid": IDS, "text": MEANINGS}))
    both = {"_id": ["d0", "d1"], "id": ["d1", "d0"], "text": ["x", "y"]}
    refused('"_id" or "id"', data, Dataset.from_dict(both))
    features = {"_id": Value("string"), "title": Value("string"), "text": Value("large_string")}
    features |= {"year": Value("int64"), "links": List(Value("string"))}
    clear = beir | {"title": ["", ""], "year": [1, 2], "links": [["d1"], []]}
    corpus = Dataset.from_dict(clear, features=Features(features))
    assert corpus_pairs(data, corpus).corpus == ["x", "y"]


def test_ids_that_are_texts_of_other_items_are_told():
    corpus = {"x": "y", "y": "x", "d2": "z"}
    refused("as ids of the corpus, or as its texts.*'x' first", {"q": ["a"], "p": ["x"]}, corpus)
    for other, meant in {"z": "y", "d2": "x"}.items():  # one that can only be a text, or an id
        data = Dataset.from_dict({"q": ["a", "b"], "p": ["y", other]})
        pairs = corpus_pairs(data, corpus)
        assert pairs.corpus[pairs.dataset["label"][0][2]] == meant


def test_the_tag_is_that_of_the_labels_too():
    data = {"q": ["a", "b"], "p": ["x", "y"]}
    tags = {
        corpus_pairs(Dataset.from_dict(data | {"p": positives}), corpus).tag
        for positives, corpus in [
            (["x", "y"], ["x", "y", "z"]),
            (["y", "x"], ["x", "y", "z"]),
            (["x", "z"], ["x", "y", "z"]),
            (["x", "y"], ["x", "z", "y"]),
        ]
    }
    assert len(tags) == 4
    more = Dataset.from_dict({name: values[::-1] for name, values in data.items()})
    again = [corpus_pairs(Dataset.from_dict(data), ["x", "y", "z"]).tag for _ in range(2)]
    assert again[0] == again[1] in tags
    assert corpus_pairs(more, ["x", "y", "z"]).tag not in tags
