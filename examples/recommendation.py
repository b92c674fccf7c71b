"""A recommender from a Parquet log of (user, item, time): two towers, all items as negatives.

python examples/recommendation.py --log log.parquet --items items.parquet --item-features genres
"""

import argparse

import torch

import negcache as nc
from negcache.run.data import open_interactions
from negcache.run.evaluation import Side, evaluate
from negcache.towers import FeatureTower

parser = argparse.ArgumentParser(description="Trains a recommender.")
parser.add_argument("--log", required=True, help="user, item, and where known time and weight")
parser.add_argument("--items", help="item and categories")
parser.add_argument("--item-features", nargs="*", default=[], help="columns of --items")
parser.add_argument("--impressions", help="user and item: shown, and not taken")
parser.add_argument("--epochs", type=int, default=6)
given = parser.parse_args()

beside = {"items": given.items, "item_features": given.item_features}
data = open_interactions(given.log, **beside, impressions=given.impressions)
torch.manual_seed(0)
user_tower = FeatureTower(len(data.users), len(data.users.codes), dim=64)
item_tower = FeatureTower(len(data.items), len(data.items.codes), dim=64)
cache = nc.DenseCache(len(data.corpus), dim=64, refresh=0.01)
sampler = nc.SharedDraws(nc.CachedSoftmax(cache, 1))
known = data.known_positives("train")
score = nc.DotScore(temperature=0.1)
loss_fn = nc.SoftmaxLoss(item_tower, data.corpus, sampler, score, known_positives=known)
optimizer = torch.optim.Adam([*user_tower.parameters(), *item_tower.parameters()], lr=3e-3)


def report(split):
    sides = Side(user_tower, data.queries, data.users), Side(item_tower, data.corpus, data.items)
    found = evaluate(*sides, score, data.judgements(split), seen=data.seen_before(split))
    print(f"{split}: Recall@10 {found.means['r10']:.4f}, NDCG@10 {found.means['ndcg10']:.4f}")


batch_size = min(128, len(data.judgements("train")))
generator = torch.Generator().manual_seed(0)
for _ in range(given.epochs):
    for batch in data.batches("train", batch_size, generator):
        queries = user_tower(batch.queries)
        loss = loss_fn(queries, batch.positives, batch.query_ids, batch.negatives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()
report("dev")
report("test")
