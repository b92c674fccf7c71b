"""Accelerate: the optimizer is followed, the loss saved with what is prepared."""

import pytest
import torch
from accelerate import Accelerator
from pace import slow
from safetensors.torch import load_file, save_file
from text_towers import (
    CORPUS,
    ROWS,
    B,
    Tower,
    adamw,
    batches,
    build,
    collate,
    difference,
    kernel_sums,
    loss_of,
    shared_draws,
    train_plainly,
)  # fmt: skip
from torch import nn
from torch.utils.data import DataLoader

import negcache as nc

STEPS = 12


def steps(accelerator, model, optimizer, data, accumulation=1):
    """What a user of Accelerate has."""
    for batch in data:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()


def prepared(sampler=shared_draws, seed=0, *, accumulation=1, first=True):
    """(accelerator, model, optimizer); the optimizer followed before ``prepare``, or after."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    model = build(sampler, seed)
    optimizer = adamw(model.parameters())
    if first:
        model.loss_fn.step_with(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    if not first:
        model.loss_fn.step_with(optimizer)
    return accelerator, model, optimizer


@pytest.mark.parametrize("sampler", [slow(shared_draws), kernel_sums])
@pytest.mark.parametrize(("accumulation", "first"), [slow(1, True), (1, False), (2, True)])
def test_it_equals_the_plain_loop(accumulation, first, sampler):
    accelerator, model, optimizer = prepared(sampler, accumulation=accumulation, first=first)
    loader = accelerator.prepare(DataLoader(ROWS, B, collate_fn=collate))
    data = [*loader, *loader][: STEPS * accumulation]
    steps(accelerator, model, optimizer, data)
    plain = build(sampler)
    data = batches(STEPS * accumulation)
    train_plainly(plain, data, adamw(plain.parameters()), accumulation)
    assert not difference(model, plain)
    assert plain.loss_fn.store.clock == STEPS


@pytest.mark.parametrize("safe", [True, slow(False)])
@pytest.mark.parametrize("sampler", [shared_draws, slow(kernel_sums)])
def test_resumed_from_a_saved_state_it_is_the_straight_run(sampler, safe, tmp_path):
    accelerator, straight, optimizer = prepared(sampler)
    data = batches(STEPS)
    steps(accelerator, straight, optimizer, data[:8])
    accelerator.save_state(str(tmp_path), safe_serialization=safe)
    steps(accelerator, straight, optimizer, data[8:])
    accelerator, resumed, optimizer = prepared(sampler, seed=7)
    accelerator.load_state(str(tmp_path))
    steps(accelerator, resumed, optimizer, data[8:])
    assert not difference(straight, resumed)


def test_a_loss_beside_the_prepared_tower_is_registered_for_checkpoints(tmp_path):
    """Its state is then a file of its own; the item tower is in it."""
    straight, state = beside(0), str(tmp_path)
    data = batches(STEPS)
    train_beside(*straight, data[:8])
    straight[0].save_state(state)
    train_beside(*straight, data[8:])
    resumed = beside(7)
    resumed[0].load_state(state)
    train_beside(*resumed, data[8:])
    for one, other in zip(straight[1:3], resumed[1:3], strict=True):
        assert not difference(one, other)


def beside(seed):
    """(accelerator, query tower, loss, optimizer)."""
    torch.manual_seed(seed)
    accelerator, tower, loss_fn = Accelerator(cpu=True), Tower(), loss_of(Tower(), seed=seed)
    optimizer = adamw([*tower.parameters(), *loss_fn.parameters()])
    tower, optimizer = accelerator.prepare(tower, optimizer)
    accelerator.register_for_checkpointing(loss_fn.step_with(optimizer))
    return accelerator, tower, loss_fn, optimizer


def train_beside(accelerator, tower, loss_fn, optimizer, data):
    for batch in data:
        loss = loss_fn(tower(batch["queries"]), batch["positives"], batch["query_ids"])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()


def test_evaluations_leave_the_run_as_it_is():
    found = []
    for evaluate in (False, True):
        accelerator, model, optimizer = prepared()
        for batch in batches(STEPS):
            if evaluate:
                model.eval()
                with torch.no_grad():
                    model(**batch)
                model.train()
            steps(accelerator, model, optimizer, [batch])
        found.append(model)
    assert not difference(*found)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_scaler_skips_leaves_the_clock(fused):
    """The scaler that Accelerate makes for fp16 on a GPU, here a CPU's."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused)
    model.loss_fn.step_with(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch, overflows, clock in zip(batches(3), (0, 1, 0), (1, 1, 2), strict=True):
        loss = model(**batch)["loss"]
        accelerator.backward(loss * (torch.inf if overflows else 1.0))
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.step_was_skipped == (bool(overflows) and not fused)  # not told of these
        assert model.loss_fn.store.clock == clock


def test_a_state_without_the_own_state_of_the_loss_is_refused(tmp_path):
    accelerator, _, _ = prepared()
    accelerator.save_state(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    del state["loss_fn._extra_state"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(nc.InputError, match="the loss' own state"):
        accelerator.load_state(str(tmp_path))


def test_a_head_is_saved_and_gives_its_noise_back(tmp_path):
    """``prepare`` and ``save_state`` of a classifier that ends in a SoftmaxHead."""
    target = torch.arange(B)

    def classifier(seed):
        accelerator, head = Accelerator(cpu=True), nc.SoftmaxHead(60, 8, nc.quadratic, 5, seed=seed)
        return accelerator, accelerator.prepare(nn.ModuleDict({"tower": Tower(), "head": head}))

    (accelerator, one), (other_accelerator, other) = classifier(0), classifier(7)
    one["head"](one["tower"](CORPUS[:B]), target)
    accelerator.save_state(str(tmp_path))
    other_accelerator.load_state(str(tmp_path))
    losses = [each["head"](each["tower"](CORPUS[:B]), target) for each in (one, other)]
    assert torch.equal(*losses)
