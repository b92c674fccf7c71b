"""A look at the loss of a SentenceTransformerTrainer: what it sees is there, and nothing moves."""

import json

import pytest
import torch
from sentence_models import static_model
from sentence_training import arguments, cached, some_pairs
from sentence_transformers import SentenceTransformerTrainer

import negcache as nc
from negcache.diagnosis import Settings, diagnose
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, DiagnosisCallback

LOOK = Settings(4, batch_size=8, advise=False)


def trained(out, *, looks):
    torch.manual_seed(0)
    model, pairs = static_model(), some_pairs()
    loss = CorpusSoftmaxLoss(model, pairs, rho=0.1, sampler=cached(pairs))
    look = DiagnosisCallback(loss, 2, queries=16, settings=LOOK)
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments(str(out), max_steps=3, save_strategy="no"),
        train_dataset=pairs.dataset, loss=loss,
        callbacks=[loss.callback(), *([look] if looks else [])],
    )  # fmt: skip
    trainer.train()
    return loss, look


@pytest.mark.slow
def test_looks_change_nothing_and_are_written_down(tmp_path):
    loss, look = trained(tmp_path / "looked", looks=True)
    alone, _ = trained(tmp_path / "alone", looks=False)
    for name, value in alone.softmax.state_dict().items():
        assert torch.equal(value, loss.softmax.state_dict()[name]), name
    assert list(look.found) == [2, 3]  # and at the end
    for step, found in look.found.items():
        told = json.loads((tmp_path / "looked" / f"diagnosis-{step}.json").read_text())
        assert (told["step"], told["loss"]) == (step, found.loss)
        assert found.samplers[0].query.sd > 0
    # the last look is what anybody sees who embeds the same queries
    split = loss.pairs.dataset
    some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:16]
    rows = split[some.tolist()]
    labels, texts = torch.tensor(rows["label"]), rows[loss.pairs.query_column]
    queries = loss.model.encode(texts, convert_to_tensor=True).cpu()
    again = diagnose(loss.softmax, queries, labels[:, 2], labels[:, 1], settings=LOOK)
    assert again.loss == pytest.approx(look.found[3].loss, abs=1e-5)


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(nc.InputError, match="every of 0 or more"):
        DiagnosisCallback(None, -1)
