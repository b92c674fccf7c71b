"""Both towers and the loss as one module."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from setting import B, D, N, Setting
from text_towers import Tower, difference, loss_of
from torch import nn

import negcache as nc


class Calibrated(nn.Linear):
    """A tower with a state beside its tensors, as quantised ones have."""

    def get_extra_state(self):
        return torch.tensor([3])

    def set_extra_state(self, state):
        assert state == 3


def shared(store):
    return nc.SharedDraws(nc.CachedSoftmax(store, 1))


def test_it_is_the_loss_of_its_towers():
    apart, joined = Setting(shared), Setting(shared)
    model, rows = nc.Retriever(joined.loss, joined.query_tower), torch.arange(B)
    weight = torch.rand(B)
    wanted = apart.loss(apart.query_tower(apart.corpus[rows]), rows, rows, weight=weight)
    found = model(joined.corpus[rows], positives=rows, query_ids=rows, weight=weight)
    assert torch.equal(found["loss"], wanted)
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert names == {"loss_fn", "query_tower"}


def test_what_is_no_loss_is_refused():
    """The towers in the wrong order, say."""
    setting = Setting(shared)
    build = getattr(nc.Retriever.__init__, "__wrapped__", nc.Retriever.__init__)
    with pytest.raises(nc.InputError, match=r"got Linear.*Retriever\(loss_fn, query_tower\)"):
        build(nc.Retriever.__new__(nc.Retriever), setting.query_tower, setting.loss)


def test_a_shared_tower_stands_once_in_the_state(tmp_path):
    setting = Setting(shared)
    for tower in (None, setting.loss.item_tower):
        model = nc.Retriever(setting.loss, tower)
        assert {name.partition(".")[0] for name in model.state_dict()} == {"loss_fn"}
        save_file(model.state_dict(), tmp_path / "model.safetensors")  # refuses what is shared
    found = model(setting.corpus[:B], torch.arange(B), torch.arange(B))["loss"]
    queries = setting.loss.item_tower(setting.corpus[:B])
    assert torch.equal(found, Setting(shared).loss(queries, torch.arange(B), torch.arange(B)))


def test_a_shared_tower_with_a_state_of_its_own_stands_once_too():
    corpus, tower = torch.randn(N, D), Calibrated(D, D)
    loss_fn = nc.SoftmaxLoss(tower, corpus, nc.Uniform(corpus, 3), nc.DotScore())
    state = nc.Retriever(loss_fn, tower).state_dict()
    assert {name.partition(".")[0] for name in state} == {"loss_fn"}


def test_without_a_loss_it_embeds_queries_as_they_are_scored():
    setting = Setting(shared)
    model = nc.Retriever(setting.loss, setting.query_tower)
    rows = model(setting.corpus[:B], torch.arange(B), return_loss=False)["embeddings"]
    assert torch.equal(rows, setting.loss.score.embed(setting.query_tower(setting.corpus[:B])))
    assert torch.equal(model(setting.corpus[:B])["embeddings"], rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(B))


@pytest.mark.parametrize("strict", [True, False])
def test_parts_that_towers_share_stand_once_in_the_state(strict, tmp_path):
    models = [build_shared_in_part(seed) for seed in (0, 1)]
    state = models[0].state_dict()
    assert "loss_fn.item_tower.words.weight" in state
    assert "query_tower.words.weight" not in state
    assert "query_tower.out.weight" in state
    holders = [nn.ModuleDict({"model": model}) for model in models]
    save_file(holders[0].state_dict(), tmp_path / "model.safetensors")
    holders[1].load_state_dict(load_file(tmp_path / "model.safetensors"), strict=strict)
    assert not difference(*models)
    words = models[1].query_tower.words.weight
    assert words is models[1].loss_fn.item_tower.words.weight


def test_a_state_that_names_a_shared_part_twice_is_taken_too():
    """As a checkpoint of version 0.1 would."""
    models = [build_shared_in_part(seed) for seed in (0, 1)]
    state = models[0].state_dict()
    state["query_tower.words.weight"] = state["loss_fn.item_tower.words.weight"]
    models[1].load_state_dict(state)
    assert not difference(*models)


def build_shared_in_part(seed):
    torch.manual_seed(seed)
    item_tower = Tower()
    return nc.Retriever(loss_of(item_tower, seed=seed), Tower(item_tower.words))
