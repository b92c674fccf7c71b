"""Settings without sense or effect are refused when the loss is made, misuse at the first pass."""

import math

import pytest
import torch
from sentence_models import asked_and_meant, static_model, words_and_meanings
from sentence_training import cached
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

import negcache as nc
from negcache.errors import InputError
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs

WORDS, MEANINGS = words_and_meanings()
PAIRS = corpus_pairs(asked_and_meant(), MEANINGS)
UNIFORM = nc.Uniform(range(len(MEANINGS)), 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": asked_and_meant()}, "pairs of corpus_pairs; got Dataset"),
        ({"scale": 0.0}, "scale > 0"),
        ({"scale": math.nan}, "scale > 0, finite; got nan"),
        ({"scale": math.inf}, "scale > 0, finite; got inf"),
        ({"scale": None}, "scale > 0, finite; got None"),
        ({"rho": -0.1}, "rho between 0 and 1; got -0.1"),
        ({"rho": 2}, "rho between 0 and 1; got 2"),
        ({"rho": math.nan}, "rho between 0 and 1; got nan"),
        ({"rho": "0.1"}, "or a refresh policy; got 0.1"),
        ({"rho": nc.stores.Snapshot}, "or a refresh policy"),
        ({"mini_batch_size": 0}, "mini_batch_size of 1 or more"),
        ({"rho": nc.stores.Snapshot(5)}, "a number as rho with sampler=.auto.*; got Snapshot"),
        ({"seed": -1}, "a seed of 0 or more"),
        ({"prompt": b"passage: "}, "prompt as a text; got bytes"),
        ({"sampler": "uniform"}, "a sampler, a function.*; got 'uniform'"),
        ({"sampler": None}, "a sampler, a function.*; got NoneType"),
        ({"sampler": lambda store: None}, "a sampler, a function.*; got NoneType"),
        ({"sampler": UNIFORM, "rho": 0.001}, "rho=0.001 and a sampler that does not read it"),
        ({"sampler": lambda store: UNIFORM, "rho": 0.1}, "rho=0.1 and a sampler that does not"),
    ],
)
def test_settings_that_are_refused(settings, message):
    encoded, model = [], static_model()
    model.register_forward_hook(lambda *_: encoded.append(1))
    with pytest.raises(InputError, match=message):
        CorpusSoftmaxLoss(model, **{"pairs": PAIRS} | settings)
    assert not encoded or callable(settings["sampler"])


def test_rho_is_a_thousandth_where_the_store_is_the_loss_own():
    def said(*args, **settings):
        loss = CorpusSoftmaxLoss(static_model(), PAIRS, *args, **settings)
        store = loss.softmax.store
        return loss.get_config_dict()["rho"], None if store is None else store.refresh.rho

    documented = {"scale": 20.0, "rho": None, "mini_batch_size": None, "sampler": "auto"}
    assert said() == said(**documented, gather_across_devices=True) == (None, None)
    assert said(sampler=lambda store: nc.CachedRest(store, 4)) == (0.001, 0.001)
    assert said(sampler=lambda store: nc.CachedRest(store, 4), rho=0.5) == (0.5, 0.5)
    assert said(sampler=UNIFORM) == said(sampler=lambda store: UNIFORM) == (None, None)


def arguments(out):
    return SentenceTransformerTrainingArguments(
        f"{out}",
        per_device_train_batch_size=8,
        max_steps=2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )


def test_training_without_the_callback_is_refused_by_the_line_to_add(tmp_path):
    model = static_model()
    loss, other = (CorpusSoftmaxLoss(model, PAIRS, sampler=cached(PAIRS)) for _ in range(2))
    for callbacks in ([], [other.callback()]):
        trainer = SentenceTransformerTrainer(
            model, arguments(tmp_path), PAIRS.dataset, loss=loss, callbacks=callbacks
        )
        with pytest.raises(InputError, match=r"callbacks=\[loss\.callback\(\)\]"):
            trainer.train()
    assert not loss.softmax.store.valid.any()


def test_a_loop_of_ones_own_follows_its_optimizer():
    model = static_model()
    loss, optimizer = CorpusSoftmaxLoss(model, PAIRS), torch.optim.SGD(model.parameters(), 0.1)
    queries, labels = [model.preprocess(WORDS[:4])], torch.tensor(PAIRS.dataset["label"][:4])
    with torch.no_grad():
        assert loss(queries, labels).isfinite()
    assert loss.eval()(queries, labels).isfinite()
    with pytest.raises(InputError, match=r"loss\.softmax\.step_with\(optimizer\)"):
        loss.train()(queries, labels)
    loss.softmax.step_with(optimizer)
    loss(queries, labels).backward()
    optimizer.step()
    assert loss.softmax.sampler.steps == 1
    del optimizer
    with pytest.raises(InputError, match="follows the optimizer"):
        loss(queries, labels)


def test_other_columns_beside_the_queries_are_refused(tmp_path):
    model = static_model()
    loss = CorpusSoftmaxLoss(model, PAIRS)
    wider = PAIRS.dataset.add_column("positive", MEANINGS)
    trainer = SentenceTransformerTrainer(
        model, arguments(tmp_path), wider, loss=loss, callbacks=[loss.callback()]
    )
    with pytest.raises(InputError, match=r"the queries; got 2\..*pairs\.dataset"):
        trainer.train()
    with pytest.raises(InputError, match="the queries; got 0"), torch.no_grad():
        loss([], torch.tensor(PAIRS.dataset["label"][:4]))
