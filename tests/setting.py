"""A small corpus with towers, store and loss: one training step at a time."""

import copy

import torch
from torch import nn

import negcache as nc
from negcache.draws import draw

N, D, B = 300, 8, 16


class CountingTower(nn.Module):
    """A real tower that counts the rows it encodes, with and without gradient."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(D, D))
        self.with_gradient, self.without = [], []

    def forward(self, features):
        (self.with_gradient if torch.is_grad_enabled() else self.without).append(len(features))
        return self.net(features)


class Watched:
    """A sampler whose draws are kept, as the training step makes them."""

    has_density = False

    def __init__(self, sampler):
        self.sampler, self.store, self.draws = sampler, sampler.store, []

    def draw(self, request, generator):
        self.draws.append(draw(self.sampler, request, generator))
        return self.draws[-1]


class Setting:
    """Towers, store and loss of a small corpus, with known positives."""

    def __init__(
        self,
        sampler,
        *,
        refresh=0.1,
        dropout=0.0,
        estimator=nc.log_q_corrected,
        seed=0,
        fill=True,
        mini_batch_size=None,
    ):
        torch.manual_seed(seed)
        self.corpus = torch.randn(N, D)
        self.query_tower, self.item_tower = nn.Linear(D, D), CountingTower(dropout)
        self.store = nc.DenseCache(N, D, refresh=refresh)
        self.known = nc.KnownPositives.from_pairs(
            torch.arange(B).repeat(3), torch.arange(3 * B), num_queries=B
        )
        self.loss = nc.SoftmaxLoss(
            self.item_tower, self.corpus, sampler(self.store), nc.DotScore(0.1),
            known_positives=self.known, estimator=estimator, seed=seed,
            mini_batch_size=mini_batch_size,
        )  # fmt: skip
        if fill:
            self.loss.fill_cache()
        parameters = [*self.query_tower.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.01)
        self.data = torch.Generator().manual_seed(seed)

    def forward(self, negatives=None, positives=None):
        features = torch.randn(B, D, generator=self.data)
        positives = torch.arange(B) if positives is None else positives
        return self.loss(
            self.query_tower(features), positives, torch.arange(B), negatives=negatives
        )

    def step(self, negatives=None, positives=None):
        loss = self.forward(negatives, positives)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss.step()
        return loss.detach()

    def state(self):
        return copy.deepcopy(
            [x.state_dict() for x in (self.query_tower, self.loss, self.optimizer)]
            + [self.data.get_state()]
        )

    def load(self, state):
        for part, saved in zip((self.query_tower, self.loss, self.optimizer), state, strict=False):
            part.load_state_dict(saved)
        self.data.set_state(state[3])
