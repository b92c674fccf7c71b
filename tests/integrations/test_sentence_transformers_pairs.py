"""What becomes of a user's data: ids that lead back to the texts, and what is refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_models import asked_and_meant, static_model, words_and_meanings
from sentence_transformers.util import mine_hard_negatives

from negcache.errors import InputError
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs

WORDS, MEANINGS = words_and_meanings()
PAIRS = corpus_pairs(asked_and_meant(), MEANINGS)


def columns(pairs, split=None):
    """Queries, positives and negatives as texts again."""
    dataset = pairs.dataset if split is None else pairs.dataset[split]
    query, label = dataset.column_names
    labels = np.array(dataset[label])
    texts = np.array([*pairs.corpus, None], dtype=object)
    assert label == "label"
    assert (labels[:, 0] == pairs.tag).all()
    return list(dataset[query]), labels[:, 1].tolist(), texts[labels[:, 2:]].tolist()


def test_ids_lead_back_to_the_texts():
    queries, rows, items = columns(PAIRS)
    assert queries == WORDS
    assert [text for (text,) in items] == MEANINGS
    assert rows == [WORDS.index(word) for word in WORDS]


def test_a_query_that_repeats_has_all_its_positives_everywhere():
    data = Dataset.from_dict({"q": ["a", "b", "a"], "p": ["x", "x", "y"]})
    pairs = corpus_pairs(data, ["x", "y", "z"])
    _, rows, _ = columns(pairs)
    assert rows == [0, 1, 0]
    known = pairs.known_positives
    assert known.items[known.offsets[0] : known.offsets[1]].tolist() == [0, 1]
    assert pairs.log_popularity.exp().tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_same_text_twice_is_one_item():
    data = Dataset.from_dict({"q": ["a", "b"], "p": [2, 1]})
    pairs = corpus_pairs(data, ["x", "y", "x"])
    assert pairs.corpus == ["x", "y"]
    assert columns(pairs)[2] == [["x"], ["y"]]


@pytest.mark.parametrize("of_ids", [True, False])
@pytest.mark.parametrize("kind", ["mapping", "dataset"])
def test_a_corpus_with_ids(kind, of_ids):
    ids = [f"d{number}" for number in range(len(MEANINGS))]
    corpus = dict(zip(ids, MEANINGS, strict=True))
    if kind == "dataset":
        corpus = Dataset.from_dict({"_id": ids, "text": MEANINGS})
    data = Dataset.from_dict({"query": WORDS, "item": ids if of_ids else MEANINGS})
    assert [text for (text,) in columns(corpus_pairs(data, corpus))[2]] == MEANINGS


def test_splits_share_their_queries_and_train_alone_makes_the_popularity():
    halves = DatasetDict(
        train=Dataset.from_dict({"q": ["a", "b"], "p": ["x", "x"]}),
        dev=Dataset.from_dict({"q": ["a", "c"], "p": ["y", "y"]}),
    )
    pairs = corpus_pairs(halves, ["x", "y"])
    assert columns(pairs, "dev")[1] == [0, 2]
    assert pairs.known_positives.exclusion(torch.tensor([0]), torch.tensor([0])).ids.tolist() == [
        0,
        1,
    ]
    assert pairs.log_popularity.exp().tolist() == [1, 0]


@pytest.mark.parametrize("output_format", ["triplet", "n-tuple"])
def test_mined_negatives_are_the_loss_own(output_format):
    mined = mine_hard_negatives(
        asked_and_meant(),
        static_model(),
        num_negatives=2,
        range_max=20,
        output_format=output_format,
        verbose=False,
    )
    pairs = corpus_pairs(mined, MEANINGS)
    names = [name for name in mined.column_names if name.startswith("negative")]
    wanted = list(zip(*(mined[name] for name in ("positive", *names)), strict=True))
    assert len(names) == {"triplet": 1, "n-tuple": 2}[output_format]
    assert [tuple(row) for row in columns(pairs)[2]] == wanted


def test_a_row_may_have_fewer_negatives():
    negatives = [
        [None, text][number % 2] for number, text in enumerate(MEANINGS[1:] + MEANINGS[:1])
    ]
    pairs = corpus_pairs(asked_and_meant().add_column("negative", negatives), MEANINGS)
    assert [row[1] for row in columns(pairs)[2]] == negatives
    model, labels = static_model(), torch.tensor(pairs.dataset["label"][:6])
    loss, optimizer = CorpusSoftmaxLoss(model, pairs), torch.optim.SGD(model.parameters())
    loss.softmax.step_with(optimizer)
    assert loss([model.preprocess(WORDS[:6])], labels).isfinite()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"q": ["a", "b"], "p": ["x", "nowhere"]}, "'nowhere', which is none of its 2 items"),
        ({"q": ["a"], "p": ["x"], "n": ["elsewhere"]}, "column 'n'"),
        ({"q": ["a"], "p": [None]}, "a positive in every row"),
        ({"q": ["a"], "p": ["x"], "label": [1]}, "n-tuple"),
        ({"q": ["a"], "p": ["x"], "score": [0.5]}, "no others"),
        ({"q": ["a"]}, "query, positive, negatives"),
        ({"id": [7], "p": ["x"]}, "texts in the first column"),
        ({"q": [], "p": []}, "0 rows"),
    ],
)
def test_data_that_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        corpus_pairs(Dataset.from_dict(data), ["x", "y"])


def test_a_stream_and_a_corpus_without_texts_are_refused():
    with pytest.raises(InputError, match=r"datasets\.Dataset"):
        corpus_pairs(asked_and_meant().to_iterable_dataset(), MEANINGS)
    with pytest.raises(InputError, match='one column of texts, such as "text"'):
        corpus_pairs(asked_and_meant(), Dataset.from_dict({"a": ["x"], "b": ["y"]}))
    with pytest.raises(InputError, match="corpus of texts"):
        corpus_pairs(asked_and_meant(), Dataset.from_dict({"text": [1, 2]}))
