"""The one signal of all trainers: an optimizer has stepped."""

import copy
import gc
import pickle
import warnings

import pytest
import torch
from accelerate import Accelerator
from pytorch_lightning.core.optimizer import LightningOptimizer
from setting import B, Setting
from torch import nn

import negcache as nc
from negcache.optimizer_steps import LONGER, PATIENCE


def shared(store):
    return nc.SharedDraws(nc.CachedSoftmax(store, 1))


class Followed(Setting):
    """The setting, its steps made by the optimizer's hook or by hand."""

    def __init__(self, by_hand, optimizer=None, sampler=shared):
        super().__init__(sampler)
        parameters = [*self.query_tower.parameters(), *self.loss.parameters()]
        kinds = optimizer or (lambda p: torch.optim.AdamW(p, 1e-2, fused=True))
        self.optimizer, self.by_hand = kinds(parameters), by_hand
        if not by_hand:
            assert self.loss.step_with(self.optimizer) is self.loss

    def run(self, steps, accumulation):
        losses = []
        for _ in range(steps):
            for _ in range(accumulation):
                losses.append(self.backward())
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.by_hand:
                self.loss.step()
        return losses

    def backward(self):
        rows = torch.randperm(B)
        loss = self.loss(self.query_tower(self.corpus[rows]), rows, rows)
        loss.backward()
        return loss.detach()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_hook_equals_steps_by_hand(accumulation):
    by_hook, by_hand = (Followed(by_hand) for by_hand in (False, True))
    for one in (by_hook, by_hand):
        torch.manual_seed(1)
        one.losses = one.run(6, accumulation)
    assert torch.equal(torch.stack(by_hook.losses), torch.stack(by_hand.losses))
    assert torch.equal(by_hook.store.table.embeddings, by_hand.store.table.embeddings)
    assert by_hook.store.clock == by_hand.store.clock == 6


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_leaves_the_clock(fused):
    setting = Followed(False, lambda p: torch.optim.AdamW(p, 1e-2, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for overflows, clock in ((False, 1), (True, 1), (False, 2)):
        rows = torch.arange(B)
        loss = setting.loss(setting.query_tower(setting.corpus[rows]), rows, rows)
        scaler.scale(loss * (torch.inf if overflows else 1.0)).backward()
        scaler.step(setting.optimizer)
        scaler.update()
        setting.optimizer.zero_grad()
        assert setting.store.clock == clock


def prepared(optimizer):
    return Accelerator().prepare(optimizer)


@pytest.mark.parametrize("wrap", [prepared, LightningOptimizer])
def test_wrapped_optimizers_are_followed(wrap):
    setting = Followed(True)
    setting.loss.step_with(wrap(setting.optimizer))
    setting.backward()
    setting.optimizer.step()
    assert setting.store.clock == 1


def test_it_follows_one_optimizer_the_last_and_a_copy_follows_none():
    setting = Followed(False)
    first, second = setting.optimizer, torch.optim.SGD(setting.loss.parameters(), 0.1)
    alone = copy.deepcopy(setting.loss)
    setting.loss.step_with(second)
    setting.backward()
    first.step()
    assert setting.store.clock == 0
    second.step()
    assert (setting.store.clock, alone.store.clock) == (1, 0)
    alone.step()
    assert (setting.store.clock, alone.store.clock) == (1, 1)


def test_a_loss_that_follows_can_be_pickled_and_follows_none_then():
    setting = Followed(False, sampler=lambda store: nc.Uniform(range(len(store)), 3))
    other = pickle.loads(pickle.dumps(setting.loss))
    assert torch.equal(other.item_tower.net[1].weight, setting.item_tower.net[1].weight)
    other.step()  # by hand: refused to those that follow


def test_steps_by_hand_beside_the_optimizers_are_refused_and_so_is_what_is_none():
    setting = Followed(False)
    with pytest.raises(nc.InputError, match="leave one of the two out"):
        setting.loss.step()
    with pytest.raises(nc.InputError, match="got Linear"):
        setting.loss.step_with(nn.Linear(2, 2))


def test_an_optimizer_that_is_gone_is_followed_no_longer():
    setting = Followed(True)
    setting.loss.step_with(torch.optim.SGD(setting.loss.parameters(), 0.1))
    gc.collect()
    setting.loss._steps._passes = PATIENCE - 1  # as if trained so often
    with pytest.warns(UserWarning, match=r"Call loss_fn\.step_with\(optimizer\) once"):
        setting.backward()
    setting.loss.step()
    assert setting.store.clock == 1


def test_an_optimizer_that_is_followed_may_gather_more_passes_before_it_is_told_of():
    setting = Followed(False)
    for passes in (PATIENCE - 1, LONGER - 2):
        setting.loss._steps._passes = passes
        setting.backward()  # a warning would be an error
    with pytest.warns(UserWarning, match=f"{LONGER} times.*did the trainer make another"):
        setting.backward()
    setting.backward()


@pytest.mark.usefixtures("unchecked")
def test_training_without_steps_is_told_of_once():
    setting = Followed(True)
    for _ in range(PATIENCE - 1):
        setting.backward()
    with pytest.warns(UserWarning, match="never stepped"):
        setting.backward()
    for _ in range(2 * PATIENCE):
        setting.backward()  # a second warning would be an error


@pytest.mark.parametrize("case", ["stepped", "without a store", "evaluated"])
def test_nobody_else_is_told(case):
    sampler = (lambda store: nc.Uniform(range(len(store)), 3)) if case != "stepped" else shared
    setting = Followed(True, sampler=sampler if case != "evaluated" else shared)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if case == "stepped":
            setting.loss.step()
        with torch.set_grad_enabled(case != "evaluated"):
            for _ in range(PATIENCE + 1):
                rows = torch.arange(B)
                setting.loss(setting.query_tower(setting.corpus[rows]), rows, rows)
