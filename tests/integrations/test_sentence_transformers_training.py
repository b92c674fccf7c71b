"""The trainer's run is the plain loop's, stops and goes on, and is not moved by evaluations."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pace import slow
from sentence_models import asked_and_meant, bert_model, static_model, words_and_meanings
from sentence_training import (
    RATE,
    RHO,
    STEPS,
    StopAt,
    arguments,
    assert_same,
    cached,
    outcome,
    some_pairs,
    trainer_of,
)
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from torch import nn

import negcache as nc
from negcache.errors import InputError
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs
from negcache.integrations.sentence_transformers.trainer_callback import state_file


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run from start to end."""
    out = tmp_path_factory.mktemp("straight")
    trainer = trainer_of(static_model(), some_pairs(), out)
    trainer.train()
    return trainer, outcome(trainer), out


class Tower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model(dict(features))["sentence_embedding"]


class Meanings:
    """A corpus for the plain loop."""

    def __init__(self, model, texts):
        self.model, self.texts = model, texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, ids):
        return dict(self.model.preprocess([self.texts[row] for row in ids.tolist()]))


def plain_loop(model, pairs, words, batches, accumulation):
    """The same run with nothing but SoftmaxLoss and torch."""
    store = nc.DenseCache(len(pairs.corpus), 16, refresh=RHO)
    sampler = cached(pairs)(store)
    known = pairs.known_positives
    items = Meanings(model, pairs.corpus)
    score = nc.DotScore(1 / 20)
    loss_fn = nc.SoftmaxLoss(Tower(model), items, sampler, score, known_positives=known)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    for number, labels in enumerate(batches, 1):
        queries = loss_fn.item_tower(
            model.preprocess([words[row] for row in labels[:, 1].tolist()])
        )
        negatives = labels[:, 3:] if labels.shape[1] > 3 else None
        loss = loss_fn(queries, labels[:, 2], labels[:, 1], negatives) / accumulation
        loss.backward()
        if number % accumulation == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss_fn.step()
            optimizer.zero_grad()
    return loss_fn.state_dict()


@pytest.mark.parametrize("accumulation", [slow(1), 2])
@pytest.mark.parametrize("kind", [slow("static"), "bert", "mined"])
def test_the_run_is_the_plain_loop_bit_for_bit(kind, accumulation, tmp_path):
    def build():
        return bert_model(tmp_path / "bert") if kind == "bert" else static_model()

    pairs, batches = some_pairs(mined=kind == "mined"), []
    steps = {"max_steps": 7 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = trainer_of(build(), pairs, tmp_path / "run", **steps)
    trainer.loss.register_forward_pre_hook(lambda _, given: batches.append(given[1].clone()))
    trainer.train()
    assert len(batches) == 7 // accumulation * accumulation
    words = words_and_meanings()[0]
    assert_same(outcome(trainer), plain_loop(build(), pairs, words, batches, accumulation))


@pytest.mark.parametrize("accumulation", [slow(1), 2])
def test_a_resumed_run_is_the_straight_one_bit_for_bit(accumulation, tmp_path):
    more = {"gradient_accumulation_steps": accumulation}
    whole = trainer_of(static_model(), some_pairs(), tmp_path / "whole", **more)
    whole.train()
    trainer_of(static_model(), some_pairs(), tmp_path / "run", StopAt(7), **more).train()
    resumed = trainer_of(static_model(), some_pairs(), tmp_path / "run", **more)
    resumed.train(resume_from_checkpoint=f"{tmp_path / 'run' / 'checkpoint-5'}")
    assert_same(outcome(resumed), outcome(whole))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from sentence_models import static_model
from sentence_training import some_pairs, trainer_of
rename = os.replace
def replace(source, target):
    if "checkpoint-10/loss_state-" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
trainer_of(static_model(), some_pairs(), Path({out!r})).train()
"""


@pytest.mark.slow
def test_a_run_killed_while_saving_goes_on_from_the_checkpoint_before(straight, tmp_path):
    path = [str(Path(__file__).parents[1])]
    code = KILLED.format(path=path, out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]
    resumed = trainer_of(static_model(), some_pairs(), tmp_path)
    with pytest.raises(InputError, match="the loss' own state"):
        resumed.train(resume_from_checkpoint=True)
    resumed = trainer_of(static_model(), some_pairs(), tmp_path)
    resumed.train(resume_from_checkpoint=f"{tmp_path / 'checkpoint-5'}")
    assert_same(outcome(resumed), straight[1])
    left = [each.name for each in (tmp_path / "checkpoint-10").iterdir() if "loss" in each.name]
    assert left == [state_file(resumed.loss)]


def test_a_run_with_evaluations_is_the_run_without(straight, tmp_path):
    pairs = some_pairs()
    more = {"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}
    evaluated = pairs.dataset.select(range(20))
    trainer = trainer_of(static_model(), pairs, tmp_path, evaluated=evaluated, **more)
    trainer.train()
    assert_same(outcome(trainer), straight[1])
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 5
    assert losses[-1] == trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


@pytest.mark.slow
def test_the_default_run_is_the_same_when_evaluated_and_resumed(tmp_path):
    whole = trainer_of(static_model(), some_pairs(), tmp_path / "whole", sampler="auto")
    whole.train()
    assert whole.loss.softmax.sampler.steps == STEPS
    pairs = some_pairs()
    more = {"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}
    more |= {"evaluated": pairs.dataset.select(range(12)), "sampler": "auto"}
    trainer_of(static_model(), pairs, tmp_path, StopAt(7), **more).train()
    resumed = trainer_of(static_model(), pairs, tmp_path, **more)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), outcome(whole))


@pytest.mark.slow
def test_a_checkpoint_elsewhere_is_named_and_another_one_is_told(straight, tmp_path):
    shutil.copytree(straight[2] / "checkpoint-10", tmp_path / "moved" / "checkpoint-10")
    moved = f"{tmp_path / 'moved' / 'checkpoint-10'}"
    trainer = trainer_of(static_model(), some_pairs(), tmp_path / "new")
    with pytest.raises(InputError, match="resume_from="):
        trainer.train(resume_from_checkpoint=moved)
    shutil.copytree(straight[2] / "checkpoint-5", tmp_path / "new" / "checkpoint-10")
    trainer = trainer_of(static_model(), some_pairs(), tmp_path / "new")
    with pytest.raises(InputError, match="weights"):
        trainer.train(resume_from_checkpoint=moved)
    model, pairs = static_model(), some_pairs()
    loss = CorpusSoftmaxLoss(model, pairs, rho=RHO, sampler=cached(pairs))
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path / "new"),
        pairs.dataset,
        loss=loss,
        callbacks=[loss.callback(moved)],
    )
    trainer.train(resume_from_checkpoint=moved)
    assert_same(outcome(trainer), straight[1])


def test_a_checkpoint_of_other_data_is_refused(straight, tmp_path):
    shutil.copytree(straight[2] / "checkpoint-5", tmp_path / "checkpoint-5")
    pairs = corpus_pairs(asked_and_meant(), words_and_meanings()[1][::-1])
    trainer = trainer_of(static_model(), pairs, tmp_path)
    with pytest.raises(InputError, match="corpus and queries"):
        trainer.train(resume_from_checkpoint=True)


def test_old_checkpoints_go_with_their_states_and_the_best_model_comes_back(straight, tmp_path):
    pairs = some_pairs()
    more = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "save_total_limit": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer = trainer_of(
        static_model(), pairs, tmp_path, evaluated=pairs.dataset.select(range(20)), **more, **best
    )
    trainer.train()
    kept = sorted(tmp_path.glob("checkpoint-*"))
    assert len(kept) == 2
    assert all((folder / state_file(trainer.loss)).is_file() for folder in kept)
    chosen = SentenceTransformer(trainer.state.best_model_checkpoint, device="cpu")
    assert torch.equal(chosen[0].embedding.weight, trainer.model[0].embedding.weight)


def test_a_saved_model_embeds_as_the_trained_one(straight, tmp_path):
    trainer, _, _ = straight
    trainer.save_model(f"{tmp_path / 'model'}")
    again = SentenceTransformer(f"{tmp_path / 'model'}", device="cpu")
    words = words_and_meanings()[0]
    assert (again.encode(words) == trainer.model.encode(words)).all()


def test_the_model_card_names_the_loss(straight):
    trainer, _, out = straight
    trainer.create_model_card()
    card = (out / "README.md").read_text()
    assert "CorpusSoftmaxLoss" in card
    assert '"rho": 0.1' in card
    assert "lindgren2021efficient" in card


def test_the_store_is_stepped_once_an_optimizer_step_and_has_no_old_rows(straight):
    store = straight[0].loss.softmax.store
    assert store.clock == STEPS
    assert store.ages().max() <= 1 / RHO
