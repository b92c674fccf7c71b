"""A small causal transformer over words, with a softmax over all of them for the price of a few.

python -m benchmarks.datasets brown brown --vocabulary 50000
python examples/language_model.py brown   # train.npy and test.npy: token ids, one after the other
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

import negcache as nc


class LanguageModel(nn.Module):
    """Words [B, T] -> hidden states [B, T, D], and a head over all words."""

    def __init__(self, head, dim=128, layers=2, heads=4, length=64):
        super().__init__()
        self.length = length
        self.words = nn.Embedding(head.weight.shape[0], dim)
        self.places = nn.Parameter(0.02 * torch.randn(length, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(dim)
        self.body = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.head = head  # was: nn.Linear(dim, num_words), and cross_entropy
        nn.init.normal_(self.words.weight, std=0.02)

    def hidden(self, seen):
        size = seen.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool, device=seen.device).triu(1)
        return self.body(self.words(seen) + self.places[:size], mask=mask, is_causal=True)

    def forward(self, tokens):
        """The mean loss of each next word of [B, T + 1] (nats)."""
        return self.head(self.hidden(tokens[:, :-1]), tokens[:, 1:])


def random_batch(tokens, size, length, generator):
    """``size`` stretches of ``length + 1`` tokens."""
    starts = torch.randint(len(tokens) - length, (size, 1), generator=generator)
    return tokens[starts + torch.arange(length + 1)]


def stretches(tokens, length):
    """A text cut into [n, length + 1]; the last token of each is the first of the next."""
    return tokens[: (len(tokens) - 1) // length * length + 1].unfold(0, length + 1, length)


@torch.no_grad()
def perplexity(model, rows, batch_size=16):
    """exp of the mean exact loss over [n, T + 1]: in ``eval()`` the head sums over all words."""
    model.eval()
    total = sum(float(model(some)) * len(some) for some in rows.split(batch_size))
    model.train()
    return math.exp(total / len(rows))


def train(model, tokens, steps, batch_size=16, rate=3e-3, seed=0, **settings):
    """AdamW, the rate rising for a tenth of the steps and falling to 0 then; yields losses."""
    settings = {"weight_decay": 0.01, "fused": True} | settings
    optimizer = torch.optim.AdamW(model.parameters(), rate, **settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = model(random_batch(tokens, batch_size, model.length, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds train.npy and test.npy, ids of words")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--words", type=int, default=50_000, help="more than the largest id")
    parser.add_argument("--draws", type=int, default=4, help="times the positions of a batch")
    parser.add_argument("--out", type=Path, default=Path("language-model.safetensors"))
    given = parser.parse_args()

    tokens, test = (
        torch.from_numpy(np.load(given.folder / f"{split}.npy").astype(np.int64))
        for split in ("train", "test")
    )
    counts = 1 + torch.bincount(tokens, minlength=given.words)
    log_share = (counts / counts.sum()).log()

    def sampler(table, num_samples):
        """Words as often as they occur; they and the batch's own stand for every position."""
        unigram = nc.Popularity(counts, num_samples, power=1.0)
        return nc.SharedDraws(unigram, log_popularity=log_share)

    torch.manual_seed(0)
    model = LanguageModel(nc.SoftmaxHead(given.words, 128, sampler, given.draws))
    with torch.no_grad():  # every word as likely as it is frequent, to begin with
        model.head.bias.copy_(log_share)
    rows = stretches(test, model.length)
    print(f"untrained: perplexity {perplexity(model, rows):.1f}")
    for step, loss in enumerate(train(model, tokens, given.steps), start=1):
        if step % 100 == 0 or step == given.steps:
            print(f"step {step}: loss {loss:.3f}")
    print(f"trained: perplexity {perplexity(model, rows):.1f}")
    save_model(model, str(given.out))
    again = LanguageModel(nc.SoftmaxHead(given.words, 128, sampler, given.draws))
    load_model(again, str(given.out))
    print(f"from {given.out}: perplexity {perplexity(again, rows):.1f}")


if __name__ == "__main__":
    main()
