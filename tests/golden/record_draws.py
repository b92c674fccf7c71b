"""What every sampler drew, setting by setting, recorded: a change of structure changes no draw.

``draws.npz`` is what version 0.1 drew. ``PYTHONPATH=src:tests python -m golden.record_draws``
writes ``mended.npz``, the draws of the cases in ``DIFFERS`` alone. Do so only where draws are meant
to differ, and say why there.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from roster import ROSTER, SETTINGS, Case, problem

from negcache.draws import draw
from negcache.messages import Draw

RECORD, MENDED = (Path(__file__).with_name(f"{name}.npz") for name in ("draws", "mended"))

EXCLUDES = "known positives are left out of the clusters, where hits were masked after the draw"
FIRST = "a query that may draw nothing ends at the first row instead of an index that may not be"
STAGES = "the choice from its pool is made in the two stages of the exact draw, by two uniforms"
SHARES = "the roster's log_popularity is that of shares, which the constructor now checks"
DIFFERS = {
    "joined": SHARES,
    "in_batch": SHARES,
    "quadratic": FIRST,
    "rf_softmax": FIRST,
    "dynamic_index": EXCLUDES,
    "shared_dynamic_index": EXCLUDES,
    "chain": EXCLUDES,
    "as_printed": EXCLUDES,
    "index_miner": EXCLUDES,
    "index_rejection": EXCLUDES,
    "index_tree": EXCLUDES,
    "resampled": STAGES,
    "resampled_uniform": STAGES,
}
"""Case -> why it draws otherwise than version 0.1 did."""

WHERE = {"quadratic": ("excluded",), "rf_softmax": ("excluded",)}
"""Cases that differ in some settings alone."""


def differs(case: Case, setting: str) -> bool:
    return case.name in DIFFERS and setting in WHERE.get(case.name, SETTINGS)


SEEDS = (0, 1)
SINCE = ("auto", "grouped_top_k")
"""Samplers that version 0.1 did not have."""

KEYS = [
    (case, setting, seed)
    for case, setting, seed in product(ROSTER, SETTINGS, SEEDS)
    if setting not in case.refuses and case.name not in SINCE
]


def draw_once(case: Case, setting: str, seed: int) -> Draw:
    """The only place that asks a sampler."""
    request, _, store = problem(**SETTINGS[setting])
    return draw(case.build(store), request, torch.Generator().manual_seed(seed))


def draws_of(case: Case, setting: str, seed: int) -> dict[str, np.ndarray]:
    """The fields of one draw; those that it lacks are left out.

    Returns:
        ``ids`` [M] ascending, ``drawn`` [B, m] (an item for each column; none where every id
        stands for every query), and the numbers beside them in the same order.
    """
    drawn = draw_once(case, setting, seed)
    order = drawn.ids.argsort()
    fields = {"ids": drawn.ids[order], "log_weight": drawn.log_weight, "log_z": drawn.log_z}
    fields["log_share"] = drawn.log_share
    if drawn.columns is None:
        for name in ("log_weight", "log_share"):
            fields[name] = None if fields[name] is None else fields[name][:, order]
    else:
        fields["drawn"] = drawn.ids[drawn.columns]
    if drawn.rest is not None:
        fields["rest_log_mass"], fields["rest_mean"] = drawn.rest.log_mass, drawn.rest.mean
        fields["rest_inclusion"] = drawn.rest.inclusion[order]
    return {name: value.numpy() for name, value in fields.items() if value is not None}


def name_of(case: Case, setting: str, seed: int) -> str:
    return f"{case.name}/{setting}/{seed}"


def main() -> None:
    record = {}
    for case, setting, seed in (key for key in KEYS if differs(*key[:2])):
        for field, value in draws_of(case, setting, seed).items():
            small = value.astype(np.int32) if value.dtype == np.int64 else value
            record[f"{name_of(case, setting, seed)}/{field}"] = small
    np.savez_compressed(MENDED, **record)


if __name__ == "__main__":
    main()
