"""What a trainer does with the loss' state: several losses, the best model, skipped steps."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_models import asked_and_meant, static_model, words_and_meanings
from sentence_training import (
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
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback

from negcache.errors import InputError
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs
from negcache.integrations.sentence_transformers.trainer_callback import state_file

WORDS, MEANINGS = words_and_meanings()
BEST = {
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_steps": 4,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,  # the least trained
}


def both_ways():
    """Pairs of two data sets: from words to meanings, and back."""
    back = Dataset.from_dict({"meaning": MEANINGS, "word": WORDS})
    return {"there": corpus_pairs(asked_and_meant(), MEANINGS), "back": corpus_pairs(back, WORDS)}


def trainer_of_two(model, out, *callbacks):
    pairs = both_ways()
    losses = {
        name: CorpusSoftmaxLoss(model, each, rho=RHO, sampler=cached(each))
        for name, each in pairs.items()
    }
    return SentenceTransformerTrainer(
        model=model,
        args=arguments(out),
        train_dataset=DatasetDict({name: each.dataset for name, each in pairs.items()}),
        loss=losses,
        callbacks=[*(loss.callback() for loss in losses.values()), *callbacks],
    )


def outcomes(trainer):
    states = {name: loss.softmax.state_dict() for name, loss in trainer.loss.items()}
    return {(name, key): value for name, state in states.items() for key, value in state.items()}


@pytest.mark.slow
def test_two_losses_of_a_trainer_are_saved_apart_and_resumed(tmp_path):
    whole = trainer_of_two(static_model(), tmp_path / "whole")
    whole.train()
    assert [loss.softmax.store.clock for loss in whole.loss.values()] == [STEPS, STEPS]
    trainer_of_two(static_model(), tmp_path / "run", StopAt(7)).train()
    folder = tmp_path / "run" / "checkpoint-5"
    files = {each.name for each in folder.glob("loss_state-*")}
    assert files == {state_file(loss) for loss in whole.loss.values()}
    assert len(files) == 2
    resumed = trainer_of_two(static_model(), tmp_path / "run")
    resumed.train(resume_from_checkpoint=f"{folder}")
    assert_same(outcomes(resumed), outcomes(whole))


def test_a_state_that_lacks_beside_another_is_told(tmp_path):
    trainer = trainer_of_two(static_model(), tmp_path, StopAt(5))
    trainer.train()
    (tmp_path / "checkpoint-5" / state_file(trainer.loss["back"])).unlink()
    kept = state_file(trainer.loss["there"])
    with pytest.raises(InputError, match=rf"'{kept}'.*callback of every loss"):
        trainer_of_two(static_model(), tmp_path).train(resume_from_checkpoint=True)


def test_two_losses_of_the_same_pairs_are_refused_and_one_for_both_is_not(tmp_path):
    model = static_model()

    def train(one, other):
        pairs = [some_pairs().dataset, some_pairs().dataset]
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments(tmp_path, max_steps=2, save_steps=2),
            train_dataset=DatasetDict(a=pairs[0], b=pairs[1]),
            loss={"a": one, "b": other},
            callbacks=[loss.callback() for loss in {one, other}],
        )
        trainer.train()

    one, other = (CorpusSoftmaxLoss(model, some_pairs()) for _ in range(2))
    with pytest.raises(InputError, match=r'two.*one file.*loss=\{"a": loss, "b": loss\}'):
        train(one, other)
    for loss in (one, other):  # one after the other, in trainers of their own
        train(loss, loss)
        assert loss.softmax.sampler.steps == 2


def test_a_run_with_other_positives_is_not_resumed(tmp_path):
    def pairs(shift):
        moved = MEANINGS[shift:] + MEANINGS[:shift]
        return corpus_pairs(Dataset.from_dict({"anchor": WORDS, "positive": moved}), MEANINGS)

    trainer_of(static_model(), pairs(0), tmp_path, StopAt(5)).train()
    other = trainer_of(static_model(), pairs(1), tmp_path)
    with pytest.raises(InputError, match="same corpus and queries with the same positives"):
        other.train(resume_from_checkpoint=True)


def best_of(out, *callbacks):
    pairs = some_pairs()
    evaluated = pairs.dataset.select(range(20))
    trainer = trainer_of(static_model(), pairs, out, *callbacks, evaluated=evaluated, **BEST)
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"
    return trainer


@pytest.mark.slow
def test_the_best_model_comes_with_what_its_loss_remembered(tmp_path):
    best = best_of(tmp_path / "best")
    stopped = trainer_of(static_model(), some_pairs(), tmp_path / "stopped", StopAt(4))
    stopped.train()
    assert best.loss.softmax.store.clock == 4
    assert_same(outcome(best), outcome(stopped))


class Forget(TrainerCallback):
    """What somebody deletes."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STEPS:
            (file,) = (Path(args.output_dir) / "checkpoint-4").glob("loss_state-*")
            file.unlink()


def test_a_best_model_without_its_loss_ends_in_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="keeps the state of the last step"):
        best = best_of(tmp_path, Forget())
    assert best.loss.softmax.store.clock == STEPS


def test_a_step_that_the_scaler_skips_leaves_the_clock(tmp_path):
    """On a CPU the trainer takes fp16 for float32; here is the scaler that a GPU would get."""
    settings = {"save_strategy": "no", "max_steps": 4, "max_grad_norm": 0, "fp16": True}
    trainer = trainer_of(static_model(), some_pairs(), tmp_path, **settings)
    assert trainer.accelerator.scaler is None
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.loss.register_forward_hook(
        lambda _loss, _args, output: output * (torch.inf if scaler.get_scale() == 4 else 1.0)
    )
    trainer.train()
    assert scaler.get_scale() == 2.0
    assert (trainer.state.global_step, trainer.loss.softmax.store.clock) == (4, 3)
