"""Every sampler draws what it drew when ``golden/draws.npz`` was written."""

import numpy as np
import pytest
from golden.record_draws import KEYS, RECORD, draws_of, name_of
from roster import ROSTER, SETTINGS

DIFFERS: dict[str, str] = {}
"""Case -> why it draws otherwise than it did, until the record is written anew."""


@pytest.fixture(scope="module")
def record():
    """What each draw was: name -> field -> numbers."""
    draws: dict[str, dict[str, np.ndarray]] = {}
    with np.load(RECORD) as archive:
        for key in archive.files:
            name, field = key.rsplit("/", 1)
            draws.setdefault(name, {})[field] = archive[key]
    return draws


def mark(case):
    reason = DIFFERS.get(case.name)
    marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)] if reason else []
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [mark(case) for case in ROSTER])
def test_draws_are_the_same(case, record):
    for key in (key for key in KEYS if key[0] == case):
        name, setting = name_of(*key), key[1]
        then, now = record[name], draws_of(*key)
        assert set(then) == set(now), f"{name}: the draw has the fields it had"
        for field in ("ids", "drawn"):
            np.testing.assert_array_equal(now.get(field), then.get(field), f"{name}: {field}")
        close = 1e-4 if "dtype" in SETTINGS[setting] else 1e-9
        for field in set(then) - {"ids", "drawn"}:
            np.testing.assert_allclose(
                now[field], then[field], rtol=0, atol=close, err_msg=f"{name}: {field}"
            )


def test_the_record_is_of_this_roster(record):
    assert set(record) == {name_of(*key) for key in KEYS}, "write the record anew"


def test_reasons_are_of_cases_that_there_are():
    assert set(DIFFERS) <= {case.name for case in ROSTER}
