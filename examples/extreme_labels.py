"""Very many labels from an XC file: weighted bags of features in, P@k and PSP@k out.

python examples/extreme_labels.py --folder eurlex   # holds train.txt and test.txt
"""

import argparse

import torch

import negcache as nc
from negcache.run.data import open_xc
from negcache.run.evaluation import encode_all, encoded, evaluate_labels, inverse_propensity
from negcache.towers import IdTable, WeightedBagTower

parser = argparse.ArgumentParser(description="Ranks very many labels.")
parser.add_argument("--folder", required=True, help="holds train.txt and test.txt")
parser.add_argument("--epochs", type=int, default=6)
given = parser.parse_args()

task = open_xc(given.folder)
train, test = task.splits["train"], task.splits["test"]
labels = torch.arange(train.num_labels)  # a label is no more than its number

torch.manual_seed(0)
point_tower = WeightedBagTower(train.num_features, dim=128)
label_tower = IdTable(train.num_labels, dim=128)
cache = nc.DenseCache(len(labels), dim=128, refresh=0.01)
sampler = nc.SharedDraws(nc.CachedSoftmax(cache, 4))
score = nc.DotScore(temperature=0.05)
loss_fn = nc.SoftmaxLoss(label_tower, labels, sampler, score, known_positives=train.labels)
optimizer = torch.optim.Adam([*point_tower.parameters(), *label_tower.parameters()], lr=3e-3)

batch_size, generator = min(128, len(train.learnable())), torch.Generator().manual_seed(0)
for _ in range(given.epochs):
    for batch in train.batches(batch_size, generator, most_labels=16):
        queries = point_tower(batch.queries)
        loss = loss_fn(queries, batch.positives, batch.query_ids)  # [B, p], padded with -1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()

points = encode_all(point_tower, test.features, score)
rows = encoded(label_tower, labels, score)  # a chunk at a time
weights = inverse_propensity(train.label_counts, len(train))
for name, value in evaluate_labels(points, rows, score, test.labels, weights).items():
    print(f"{name}: {100 * value:.2f}")
