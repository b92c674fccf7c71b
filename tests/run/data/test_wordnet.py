"""The WordNet that ships with the package, and the tasks over it."""

from collections import Counter

import pytest
from pace import fast

from negcache.run.data import open_task, wordnet
from negcache.run.data.lemma_in_example import lemma_in_example
from negcache.run.data.tables import stable_split

BIGGEST = 8_000_000  # bytes


@pytest.fixture(scope="module")
def entries():
    return wordnet.entries()


def test_it_is_all_of_wordnet_in_a_small_file(entries):
    assert wordnet.ASSET.stat().st_size <= BIGGEST
    assert "Princeton University" in (wordnet.ASSET.parent / "WORDNET_LICENSE.txt").read_text()
    assert Counter(entry.pos for entry in entries) == {
        "n": 82_115, "v": 13_767, "a": 18_156, "r": 3_621,
    }  # fmt: skip
    assert sum(len(entry.lemmas) for entry in entries) == 206_978
    assert len({entry.id for entry in entries}) == len(entries) == 117_659
    assert all(entry.definition and all(entry.lemmas) for entry in entries)


def test_a_known_entry(entries):
    [bank] = [entry for entry in entries if entry.id == "n09213565"]
    assert bank == wordnet.Entry(
        id="n09213565",
        pos="n",
        lemmas=["bank"],
        definition="sloping land (especially the slope beside a body of water)",
        examples=[
            "they pulled the canoe up on the bank",
            "he sat on the bank of the river and watched the currents",
        ],
    )


@pytest.mark.parametrize(
    ("lemmas", "example", "found"),
    [
        (["depository", "bank"], "he cashed a check at the Bank.", ("bank", "exact")),
        (["stand", "stand for"], "what does it stand for?", ("stand for", "exact")),
        (["chip away"], "these customs are chipping away", ("chip away", "inflected")),
        (["draw", "draw out"], "can you draw-- her out", ("draw", "exact")),
        (["cavern", "cave"], "dark caverns", ("cavern", "inflected")),
        (["give", "present"], "he gave a toast", ("give", "absent")),
        (["c", "ascorbic acid"], "!", ("c", "absent")),
    ],
)
def test_the_lemma_that_stands_in_the_example(lemmas, example, found):
    assert lemma_in_example(lemmas, example) == found


def test_how_the_lemmas_were_found(entries):
    found = Counter(
        lemma_in_example(entry.lemmas, example).how
        for entry in entries
        for example in entry.examples
    )
    assert found == {"exact": 39_010, "inflected": 8_535, "absent": 794}


@pytest.mark.parametrize("name", fast(wordnet.BUILT_IN, "wordnet-reverse"))
def test_no_dev_or_test_entry_is_a_training_positive(name):
    rows = wordnet.BUILT_IN[name]()
    held = {split: {item for _, item in pairs} for split, pairs in rows.judged.items()}
    assert not held["train"] & (held["dev"] | held["test"])
    assert not held["dev"] & held["test"]
    asked = [query for pairs in rows.judged.values() for query, _ in pairs]
    assert sorted(asked) == sorted(query for query, _ in rows.queries)


def test_splits_are_fixed_shares_of_the_entries(entries):
    shares = Counter(stable_split(entry.id) for entry in entries)
    assert shares == {"train": 94_094, "dev": 11_905, "test": 11_660}


def test_a_reverse_item_does_not_tell_its_definition(entries):
    rows = wordnet.reverse_rows()
    assert len(rows.corpus) == len(rows.queries) == 117_659
    for entry, (_, item), (_, query) in zip(entries, rows.corpus, rows.queries, strict=True):
        assert (item, query) == (", ".join(entry.lemmas), entry.definition)


@pytest.mark.slow
def test_the_demo_task_from_asset_to_tokens():
    task = open_task("wordnet-sense")
    assert (len(task.corpus), len(task.queries), task.vocab_size) == (117_659, 48_339, 16_384)
    assert {split: len(judged) for split, judged in task.splits.items()} == {
        "train": 38_716, "dev": 4_812, "test": 4_811,
    }  # fmt: skip
    bank = task.corpus_text.find(["n09213565"])
    assert task.corpus_text.texts(bank) == [
        "bank : sloping land (especially the slope beside a body of water), noun"
    ]
    asked = task.query_text.find(["n09213565-0"])
    assert task.query_text.texts(asked) == ["bank : they pulled the canoe up on the bank"]
