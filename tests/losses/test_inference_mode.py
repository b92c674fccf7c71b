"""A first pass in inference mode, as Lightning's check before training makes it."""

import pytest
import torch
from roster import ROSTER
from setting import B, Setting


@pytest.mark.parametrize(
    "case", [case for case in ROSTER if case.name != "given"], ids=lambda case: case.name
)
def test_a_run_goes_on_as_if_there_had_been_none(case):
    """What it filled and built, the run writes to."""
    plain, beside = (Setting(case.build, fill=False) for _ in range(2))
    for _ in range(3):
        beside.loss.eval()
        with torch.inference_mode():
            rows = torch.arange(B)
            beside.loss(beside.query_tower(beside.corpus[rows]), rows, rows)
        beside.loss.train()
        assert torch.equal(plain.step(), beside.step())
