"""How texts become tokens: accents stay, long words do no harm, one's own tokenizer is taken."""

import time

import pytest
from folders import write_folder
from tokenizers import Tokenizer, models, pre_tokenizers

from negcache.errors import InputError
from negcache.run.data import open_task
from negcache.run.data.tokenizer import LONGEST_WORD

CORPUS = [
    {"_id": "d1", "text": "Schön ist es schön"},
    {"_id": "d2", "text": "schon ist es SCHON"},
    {"_id": "d3", "text": "scho\u0308n ist es"},  # the same letter in two characters
]
QUERIES = [{"_id": "q1", "text": "schön"}]
QRELS = {"train": [("q1", "d1", 1)]}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "small", CORPUS, QUERIES, QRELS)


def ids(task, text):
    return task.tokenizer.encode(text, add_special_tokens=False).ids


def test_accents_stay_unless_they_are_to_go(folder):
    task = open_task(folder)
    assert ids(task, "schön") == ids(task, "scho\u0308n") == ids(task, "Schön")
    assert ids(task, "schön") != ids(task, "schon")
    plain = open_task(folder, strip_accents=True)
    assert ids(plain, "schön") == ids(plain, "schon")
    capitals = open_task(folder, lowercase=False)
    assert ids(capitals, "Schön") != ids(capitals, "schön")
    assert len({one.fingerprint for one in (task, plain, capitals)}) == 3


def test_a_word_without_end_stops_nobody(tmp_path):
    """Its merges would be as its square."""
    word = "".join(f"{i:x}" for i in range(60_000))
    corpus = [*CORPUS, {"_id": "d4", "text": f"{word} {word}"}]
    begun = time.process_time()
    task = open_task(write_folder(tmp_path / "long", corpus, QUERIES, QRELS), vocab_size=300)
    assert time.process_time() - begun < 20
    longest = "y" * LONGEST_WORD
    once, twice = ids(task, longest), ids(task, longest * 2)
    assert twice == once * 2  # cut into words of so many characters


def write_tokenizer(path, vocabulary, unknown="[UNK]"):
    own = Tokenizer(models.WordLevel(vocabulary, unknown))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.enable_padding(length=7)
    own.save(str(path))
    return path


def test_the_users_own_tokenizer(folder, tmp_path):
    path = write_tokenizer(tmp_path / "own.json", {"[UNK]": 0, "ist": 1, "Schön": 2, "schön": 3})
    task = open_task(folder, tokenizer=path, max_tokens=3)
    assert task.vocab_size == 4
    assert ids(task, "Schön ist es schön") == [2, 1, 0]  # as it is, but for the cut
    assert task.corpus.lengths(task.splits["train"].items).tolist() == [3]
    write_tokenizer(path, {"[UNK]": 0, "ist": 2, "Schön": 1})
    assert ids(open_task(folder, tokenizer=path), "Schön ist") == [1, 2]  # prepared anew


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [
        ({"[UNK]": 0, "ist": 7}, r"ids from 0 to 1 for the 2 tokens of .*; got others, up to 7"),
        ({"ist": 0}, "a tokenizer that can code every text; got WordLevel"),
        (None, "a tokenizer.json; got .*own.json: "),
    ],
)
def test_tokenizers_that_cannot_be_taken(folder, tmp_path, vocabulary, told):
    path = tmp_path / "own.json"
    if vocabulary is None:
        path.write_text('{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}')
    else:
        write_tokenizer(path, vocabulary)
    with pytest.raises(InputError, match=told):
        open_task(folder, tokenizer=path)
    path.unlink()
    with pytest.raises(InputError, match=r"the file .*own\.json; got No such file"):
        open_task(folder, tokenizer=path)
