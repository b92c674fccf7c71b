"""Both towers and the loss as one module."""

import torch
from safetensors.torch import save_file
from setting import B, Setting

import negcache as nc


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


def test_a_shared_tower_stands_once_in_the_state(tmp_path):
    setting = Setting(shared)
    for tower in (None, setting.loss.item_tower):
        model = nc.Retriever(setting.loss, tower)
        assert {name.partition(".")[0] for name in model.state_dict()} == {"loss_fn"}
        save_file(model.state_dict(), tmp_path / "model.safetensors")  # refuses what is shared
    found = model(setting.corpus[:B], torch.arange(B), torch.arange(B))["loss"]
    queries = setting.loss.item_tower(setting.corpus[:B])
    assert torch.equal(found, Setting(shared).loss(queries, torch.arange(B), torch.arange(B)))


def test_without_a_loss_it_embeds_queries_as_they_are_scored():
    setting = Setting(shared)
    model = nc.Retriever(setting.loss, setting.query_tower)
    rows = model(setting.corpus[:B], torch.arange(B), return_loss=False)["embeddings"]
    assert torch.equal(rows, setting.loss.score.embed(setting.query_tower(setting.corpus[:B])))
    assert torch.equal(model(setting.corpus[:B])["embeddings"], rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(B))
