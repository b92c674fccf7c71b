"""What was prepared is what is used: every damage is mended from the source, or refused by name."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
from folders import write_folder

from negcache.errors import InputError
from negcache.run.atomic import remove
from negcache.run.data import open_task
from negcache.run.data import prepare as preparation
from negcache.run.data.prepared import damage


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "small")


@pytest.fixture
def prepared(folder, cache_of_this_test):
    """The prepared folder."""
    open_task(folder)
    [found] = (cache_of_this_test / "tasks").iterdir()
    return found


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def flip(path):
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def into_a_folder(path):
    path.unlink()
    path.mkdir()


def into_a_link(path):
    path.unlink()
    path.symlink_to("/dev/zero")


FILES = [
    "corpus/000000.arrow",
    "corpus/id_hashes.npy",
    "queries/id_rows.npy",
    "corpus.tokens/tokens.npy",
    "queries.tokens/offsets.npy",
    "corpus.tokens/written.json",
    "splits/train/judgements.npy",
    "splits/test/known/items.npy",
    "tokenizer.json",
    "sources.json",
    "manifest.json",
]


@pytest.mark.parametrize("spoil", [flip, cut, empty, remove, into_a_folder, into_a_link])
def test_every_damage_is_found_and_mended(folder, prepared, spoil):
    before, fingerprint = content(prepared), open_task(folder).fingerprint
    for name in FILES[:: 1 if spoil is flip else -3]:
        spoil(prepared / name)
        with pytest.warns(UserWarning, match=f"damaged or missing: {name}"):
            task = open_task(folder)
        assert task.fingerprint == fingerprint
        assert content(prepared) == before
        assert [path.name for path in prepared.parent.iterdir()] == [prepared.name]


def test_what_is_too_much_is_damage_too(folder, prepared):
    """Another part of texts would be rows that nobody wrote."""
    shutil.copy(prepared / "corpus" / "000000.arrow", prepared / "corpus" / "000001.arrow")
    with pytest.warns(UserWarning, match="corpus/000001.arrow"):
        assert len(open_task(folder).corpus_text) == 3


def test_what_is_intact_is_not_made_anew(folder, prepared):
    kept = {name: (prepared / name).stat().st_ino for name in FILES[:4]}
    flip(prepared / "queries.tokens" / "tokens.npy")
    with pytest.warns(UserWarning, match="queries.tokens/tokens.npy"):
        open_task(folder)
    assert kept == {name: (prepared / name).stat().st_ino for name in kept}


def test_damage_is_refused_where_the_source_is_another(folder, prepared):
    """Of the same size and time: what would be made is not what was prepared."""
    path = folder / "corpus.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("moon", "mood"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    flip(prepared / "corpus.tokens" / "tokens.npy")
    with pytest.raises(InputError, match=r"corpus.jsonl as it was prepared"):
        open_task(folder)
    assert damage(prepared) == ["corpus.tokens/tokens.npy"]  # and it is left as it was


def test_a_mending_that_is_killed_is_gone_on_with(folder, prepared, monkeypatch):
    before = content(prepared)
    flip(prepared / "tokenizer.json")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(preparation, "make_tokenizer", stop)
        warnings.simplefilter("ignore")
        with pytest.raises(KeyboardInterrupt):
            open_task(folder)
    open_task(folder)
    assert content(prepared) == before


@pytest.mark.parametrize("what", ["np.save", "texts", "tokenizer", "manifest"])
def test_a_full_disk(folder, cache_of_this_test, monkeypatch, what):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if what == "np.save":
            patch.setattr(np, "save", full)
        else:
            name = {"texts": "write_texts", "tokenizer": "_write_tokens"}.get(
                what, "write_manifest"
            )
            patch.setattr(preparation, name, full)
        with pytest.raises(InputError, match=r"to write what is prepared into .*No space left"):
            open_task(folder)
    assert len(open_task(folder).corpus) == 3
    assert len(list((cache_of_this_test / "tasks").iterdir())) == 1


def test_a_cache_that_is_no_folder(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="to write what is prepared"):
        open_task(folder, cache_dir=tmp_path / "file")


def test_a_manifest_of_other_words_is_damage(folder, prepared):
    """Also where it is JSON, and its files are what it says."""
    path = prepared / "manifest.json"
    path.write_text(path.read_text().replace('"untidy": {}', '"untidy": {"x": 1}'))
    assert json.loads(path.read_text())["untidy"] == {"x": 1}
    with pytest.warns(UserWarning, match="manifest.json"):
        task = open_task(folder)
    assert len(task.corpus) == 3
