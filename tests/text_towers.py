"""Two small towers over real texts, words of WordNet and what they mean, for any trainer."""

import zlib

import torch
from torch import nn

import negcache as nc
from negcache.run.data.wordnet import entries

N, D, B, VOCAB = 160, 8, 8, 1000


def tokens(text, length=12):
    """Hashed words, padded with 0."""
    found = [1 + zlib.crc32(word.encode()) % (VOCAB - 1) for word in text.split()]
    return (found + [0] * length)[:length]


NOUNS = entries()[1000 : 1000 + N]
CORPUS = torch.tensor([tokens(entry.definition) for entry in NOUNS])
ROWS = [
    {"queries": tokens(" ".join(entry.lemmas)), "positives": number, "query_ids": number}
    for number, entry in enumerate(NOUNS)
]


class Tower(nn.Module):
    """The mean of a text's words, and a linear map."""

    def __init__(self, words=None):
        super().__init__()
        self.words = nn.EmbeddingBag(VOCAB, D, padding_idx=0) if words is None else words
        self.out = nn.Linear(D, D)

    def forward(self, texts):
        return self.out(self.words(texts))


def shared_draws():
    return nc.SharedDraws(nc.CachedSoftmax(nc.DenseCache(N, D, refresh=0.1), 1))


def kernel_sums():
    return nc.quadratic(nc.DenseCache(N, D, refresh=0.1), 4)


def build(sampler=shared_draws, seed=0, **settings):
    """Both towers and the loss, as one module; equal seeds build equal ones."""
    torch.manual_seed(seed)
    query_tower, item_tower = Tower(), Tower()
    return nc.Retriever(loss_of(item_tower, sampler, seed=seed, **settings), query_tower)


def loss_of(item_tower, sampler=shared_draws, **settings):
    known = nc.KnownPositives.from_pairs(torch.arange(N), torch.arange(N), num_queries=N)
    score = nc.DotScore(0.1, normalize=True)
    return nc.SoftmaxLoss(item_tower, CORPUS, sampler(), score, known_positives=known, **settings)


def collate(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def batches(count, rows=ROWS):
    """Batches in the order of the rows, from the start again when they are used up."""
    once = [collate(rows[first : first + B]) for first in range(0, len(rows), B)]
    return [once[number % len(once)] for number in range(count)]


def adamw(parameters, lr=1e-2, **settings):
    return torch.optim.AdamW(parameters, lr, fused=True, **settings)


def train_plainly(model, data, optimizer, accumulation=1, clip=None):
    """The loop of the README, steps by hand; the losses."""
    losses = []
    for first in range(0, len(data), accumulation):
        for batch in data[first : first + accumulation]:
            loss = model(**batch)["loss"]
            (loss / accumulation).backward()
            losses.append(loss.detach())
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        model.loss_fn.step()
    return losses


def difference(one, other):
    """Names of what two modules hold differently, bit for bit: weights, store, clock, noise."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]
