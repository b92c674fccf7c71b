"""Hugging Face's Trainer as it is, the loss inside the model: the plain loop, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import hugging_face
import pytest
import torch
from hugging_face import STEPS, trainer_of
from pace import slow
from safetensors.torch import load_file, load_model, save_file
from text_towers import Tower, build, difference, kernel_sums, loss_of, shared_draws, train_plainly
from torch import nn
from transformers import Trainer, default_data_collator

import negcache as nc


def trained(folder, sampler=shared_draws, **settings):
    model = build(sampler)
    trainer_of(model, folder, **settings).train()
    return model


@pytest.mark.parametrize("sampler", [slow(shared_draws), kernel_sums])
@pytest.mark.parametrize("accumulation", [slow(1), 2])
def test_it_equals_the_plain_loop(accumulation, sampler, tmp_path):
    """The Trainer's own fused AdamW and clipping; the batches are those that it drew."""
    seen, model, plain = [], build(sampler), build(sampler)

    def collate(rows):
        seen.append(default_data_collator(rows))
        return seen[-1]

    settings = {"gradient_accumulation_steps": accumulation, "save_strategy": "no"}
    trainer = trainer_of(model, tmp_path, collate=collate, **settings)
    trainer.train()
    assert trainer.optimizer.optimizer.defaults["fused"]
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-2, weight_decay=0.0, fused=True)
    train_plainly(plain, seen[: STEPS * accumulation], optimizer, accumulation, clip=1.0)
    assert model.loss_fn.store.clock == STEPS
    assert not difference(model, plain)


@pytest.mark.parametrize("sampler", [shared_draws, slow(kernel_sums)])
@pytest.mark.parametrize("accumulation", [slow(1), 2])
def test_resumed_at_a_checkpoint_it_is_the_straight_run(accumulation, sampler, tmp_path):
    settings = {"gradient_accumulation_steps": accumulation}
    straight = trained(tmp_path, sampler, **settings)
    resumed = build(sampler, seed=7)  # of another seed: all comes from the checkpoint
    trainer = trainer_of(resumed, tmp_path, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert not difference(straight, resumed)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_straight_run(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, hugging_face.__file__, tmp_path], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint-4"]
    resumed = build(seed=7)
    trainer_of(resumed, tmp_path).train(resume_from_checkpoint=True)
    assert not difference(trained(tmp_path / "straight"), resumed)


def test_evaluations_leave_the_run_as_it_is(tmp_path):
    model = build()
    trainer = trainer_of(model, tmp_path, eval_strategy="steps", eval_steps=3)
    trainer.train()
    evaluated = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(evaluated) == STEPS // 3
    assert evaluated[-1] < evaluated[0]
    assert not difference(model, trained(tmp_path))


def test_a_saved_model_is_loaded_back(tmp_path):
    model, other = build(), build(seed=7)
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    load_model(other, tmp_path / "saved" / "model.safetensors")
    assert not difference(model, other)


def test_the_best_model_is_loaded_with_what_its_loss_remembered(tmp_path):
    model = build()
    settings = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True}
    measure = {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # the least trained
    trainer = trainer_of(model, tmp_path, **settings, **measure)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-4"
    other = build(seed=7)
    load_model(other, best / "model.safetensors")
    assert not difference(model, other)
    assert model.loss_fn.store.clock == 4


def test_a_checkpoint_without_the_own_state_of_the_loss_is_refused(tmp_path):
    trained(tmp_path)
    weights = tmp_path / "checkpoint-8" / "model.safetensors"
    state = {k: v for k, v in load_file(weights).items() if "_extra_state" not in k}
    save_file(state, weights, metadata={"format": "pt"})
    trainer = trainer_of(build(), tmp_path)
    with pytest.raises(nc.InputError, match="the loss' own state"):
        trainer.train(resume_from_checkpoint=str(weights.parent))


def test_towers_that_share_a_part_are_saved_and_resumed(tmp_path):
    def shared_in_part(seed):
        torch.manual_seed(seed)
        item_tower = Tower()
        return nc.Retriever(loss_of(item_tower, seed=seed), Tower(item_tower.words))

    straight, resumed = shared_in_part(0), shared_in_part(7)
    trainer_of(straight, tmp_path).train()
    trainer_of(resumed, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert not difference(straight, resumed)
    assert resumed.query_tower.words.weight is resumed.loss_fn.item_tower.words.weight


def test_a_step_that_the_scaler_skips_leaves_the_clock(tmp_path):
    """On a CPU the Trainer takes fp16 for float32; here is the scaler that a GPU would get."""
    model = build()

    def overflowing(_module, _args, output):
        return {"loss": output["loss"] * (torch.inf if scaler.get_scale() == 4 else 1.0)}

    model.register_forward_hook(overflowing)
    trainer = trainer_of(
        model, tmp_path, save_strategy="no", max_steps=4, max_grad_norm=0, fp16=True
    )
    assert trainer.accelerator.scaler is None
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.train()
    assert scaler.get_scale() == 2.0
    assert (trainer.state.global_step, model.loss_fn.store.clock) == (4, 3)


@pytest.mark.parametrize(("door", "times"), [("model", 1), ("compute_loss_func", 2)])
def test_compute_loss_func_is_the_wrong_door(door, times, tmp_path):
    """What comes through it counts as scaled: accumulated gradients are summed, not averaged."""
    model, plain = build(), build()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    settings = {"max_steps": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
    settings |= {"optimizers": (torch.optim.SGD(model.parameters(), 1.0), None)}
    if door == "compute_loss_func":
        settings["compute_loss_func"] = lambda outputs, labels, **_: outputs["loss"]
    seen = train_one_step(model, tmp_path, **settings)
    train_plainly(plain, seen, torch.optim.SGD(plain.parameters(), 1.0), accumulation=2)
    moved, wanted = (
        nn.utils.parameters_to_vector(each.parameters()) - start for each in (model, plain)
    )
    torch.testing.assert_close(moved, times * wanted)


def train_one_step(model, folder, optimizers, compute_loss_func=None, **settings):
    seen = []

    def collate(rows):
        seen.append(default_data_collator(rows))
        return seen[-1]

    trainer = Trainer(
        model, hugging_face.arguments(folder, save_strategy="no", **settings),
        data_collator=collate, train_dataset=hugging_face.Dataset.from_list(hugging_face.ROWS),
        compute_loss_func=compute_loss_func, optimizers=optimizers,
    )  # fmt: skip
    model.loss_fn.step_with(optimizers[0])
    trainer.train()
    return seen[:2]
