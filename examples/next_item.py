"""The next item of a sequence, as SASRec: a causal transformer, a softmax over all items.

python -m benchmarks.datasets movielens movielens
python examples/next_item.py --log movielens/log.parquet   # user, item, time
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import negcache as nc
from negcache.run.data import open_interactions


class NextItem(nn.Module):
    """Sequences of items [B, T], 0 after their end -> hidden states; a head tied to the items."""

    def __init__(self, num_items, dim=64, layers=2, heads=2, length=50, dropout=0.2):
        super().__init__()
        self.length, self.dropout = length, nn.Dropout(dropout)
        self.items = nn.Embedding(1 + num_items, dim, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(length, dim))
        nn.init.normal_(self.items.weight[1:], std=0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(dim)
        self.body = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.head = nc.SoftmaxHead.tied(self.items, sampler, num_samples=1)

    def hidden(self, seen):
        size = seen.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool, device=seen.device).triu(1)
        rows = self.dropout(self.items(seen) + self.places[:size])
        return self.body(rows, mask=mask, is_causal=True)

    def forward(self, sequences):
        """The mean loss of each next item of [B, T + 1]; 0 is none."""
        return self.head(self.hidden(sequences[:, :-1]), sequences[:, 1:])

    @torch.no_grad()
    def best(self, histories, k):
        """The k best items after each history, a list of tensors: [B, k]."""
        seen = pad_sequence([history[-self.length :] for history in histories], batch_first=True)
        last = torch.tensor([min(len(history), self.length) - 1 for history in histories])
        return self.head.topk(self.hidden(seen)[torch.arange(len(seen)), last], k)[1]


def sampler(table, num_samples):
    """The softmax itself, its draws shared by the batch."""
    return nc.SharedDraws(nc.CachedSoftmax(table, num_samples))


def by_user(judgements):
    """The items of each user, in the order of time; numbered from 1."""
    users, sizes = torch.unique_consecutive(judgements.queries, return_counts=True)
    return dict(zip(users.tolist(), (1 + judgements.items).split(sizes.tolist()), strict=True))


def windows(sequences, length):
    """Stretches of at most ``length + 1`` items, each beginning with the last of the one before."""
    cut = [s[at : at + length + 1] for s in sequences for at in range(0, len(s) - 1, length)]
    return pad_sequence(cut, batch_first=True)


def evaluate(model, histories, wanted):
    """Recall@10 and NDCG@10 over all items but those of the history."""
    model.eval()
    ranks, users = [], list(wanted)
    for some in (users[at : at + 256] for at in range(0, len(users), 256)):
        before = [histories[user] for user in some]
        k = min(10 + max(map(len, before)), len(model.items.weight) - 1)
        for user, seen, best in zip(some, before, model.best(before, k), strict=True):
            new = best[~torch.isin(best, seen)][:10]
            ranks += (new == wanted[user]).nonzero().flatten().tolist()
    model.train()
    recall, ndcg = len(ranks), sum(1 / math.log2(rank + 2) for rank in ranks)
    return f"Recall@10 {recall / len(wanted):.4f}, NDCG@10 {ndcg / len(wanted):.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", required=True, help="Parquet: user, item, and time where known")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("next-item.safetensors"))
    given = parser.parse_args()

    data = open_interactions(given.log)
    train, dev, test = (by_user(data.judgements(split)) for split in ("train", "dev", "test"))
    until_test = {user: torch.cat([train[user], dev[user]]) for user in test}
    torch.manual_seed(0)
    model = NextItem(len(data.items))
    print(f"untrained: {evaluate(model, until_test, test)}")

    rows = windows(train.values(), model.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for epoch in range(1, given.epochs + 1):
        losses = []
        for some in torch.randperm(len(rows)).split(32):
            loss = model(rows[some])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
        if epoch % 5 == 0 or epoch == given.epochs:
            mean = torch.stack(losses).mean()
            print(f"epoch {epoch}: loss {mean:.3f}; dev {evaluate(model, train, dev)}")
    print(f"test: {evaluate(model, until_test, test)}")
    save_model(model, str(given.out))
    again = NextItem(len(data.items))
    load_model(again, str(given.out))
    print(f"from {given.out}: {evaluate(again, until_test, test)}")


if __name__ == "__main__":
    main()
