"""A model folder is data: nothing of it is run, and what is damaged is named."""

import json
import shutil

import pytest
import torch

from negcache.errors import InputError
from negcache.run.cli.planning.encoder import token_counts, transformer_size
from negcache.towers.transformer import TransformerTower

EVIL = """\
from pathlib import Path
Path("{ran}").touch()
class Evil: pass
"""


@pytest.fixture
def model(folder, tmp_path, monkeypatch):
    """A copy that may be spoilt, with code of its own, which says that it was run."""
    home = tmp_path / "model"
    shutil.copytree(folder, home, ignore=shutil.ignore_patterns("*.safetensors"))
    (home / "model.safetensors").symlink_to(folder / "model.safetensors")
    ran = tmp_path / "ran"
    (home / "evil.py").write_text(EVIL.format(ran=ran))
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who would answer a question
    yield home
    assert not ran.exists()


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def modules(home, number=0, **values):
    path = home / "modules.json"
    found = json.loads(path.read_text())
    found[number] |= values
    path.write_text(json.dumps(found))


def own_config(home):
    edit(home / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})


def own_tokenizer(home):
    (home / "tokenizer.json").unlink()
    edit(
        home / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
    )


def pickled(home):
    (home / "model.safetensors").unlink()
    torch.save({}, home / "pytorch_model.bin")


def pickled_dense(home):
    modules(home, 1, path="2_Dense", type="sentence_transformers.models.Dense")
    (home / "2_Dense").mkdir()
    (home / "2_Dense" / "config.json").write_text('{"in_features": 384, "out_features": 4}')
    torch.save({}, home / "2_Dense" / "pytorch_model.bin")


def truncated(home):
    path = home / "model.safetensors"
    whole = path.read_bytes()
    path.unlink()  # the link alone
    path.write_bytes(whole[:100_000])


def no_json(home):
    (home / "tokenizer.json").write_text("{")


def bad_modules(text):
    return lambda home: (home / "modules.json").write_text(text)


HOSTILE = {
    "config": (own_config, "contains custom code which must be executed"),
    "tokenizer": (own_tokenizer, "can load; got .*model: "),
    "class": (lambda home: modules(home, type="evil.Evil"), "'evil.Evil', which would run code"),
    "no class": (lambda home: modules(home, type="sentence_transformers.util.cos_sim"), "can load"),
    "elsewhere": (lambda home: modules(home, 1, path="../other"), r"got '\.\./other'"),
    "absolute": (lambda home: modules(home, 1, path="/etc"), "got '/etc'"),
    "kernel": (
        lambda home: edit(home / "config.json", _attn_implementation="evil/kernel"),
        "an attention of transformers itself",
    ),
    "pickle": (pickled, "as safetensors.*pytorch_model.bin, a pickle"),
    "dense": (pickled_dense, "as safetensors.*2_Dense/pytorch_model.bin, a pickle"),
    "weights": (truncated, "can load; got .*model: "),
    "vocabulary": (no_json, "can load; got .*model: "),
    "no list": (bad_modules('{"0": 1}'), "modules with name, type and path"),
    "no modules": (bad_modules('[1, "a"]'), "modules with name, type and path"),
    "nothing": (bad_modules("[]"), "modules with name, type and path"),
    "deep": (bad_modules("[" * 20_000), "JSON in .*modules.json"),
}
PLANNED = (
    "config",
    "class",
    "elsewhere",
    "absolute",
    "kernel",
    "pickle",
    "dense",
    "no list",
    "deep",
)
"""What a plan sees, which reads no weights."""


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_of_a_folder_is_run_and_damage_is_named(model, case):
    spoil, told = HOSTILE[case]
    spoil(model)
    with pytest.raises(InputError, match=told):
        TransformerTower.load(model)


@pytest.mark.parametrize("case", PLANNED)
def test_a_plan_runs_nothing_either(model, case):
    spoil, told = HOSTILE[case]
    spoil(model)
    with pytest.raises(InputError, match=told):
        transformer_size(model)


def test_counting_tokens_runs_nothing_either(model):
    own_tokenizer(model)
    with pytest.raises(InputError, match="tokenizer that transformers can read"):
        token_counts(model, None, ["a"], ["b"])
