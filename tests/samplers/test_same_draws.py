"""Every sampler draws what version 0.1 drew, or what it drew once a fault was mended."""

import numpy as np
import pytest
from golden.record_draws import KEYS, MENDED, RECORD, differs, draws_of, name_of
from roster import ROSTER, SETTINGS


def read(path):
    """What each draw was: name -> field -> numbers."""
    draws: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            name, field = key.rsplit("/", 1)
            draws.setdefault(name, {})[field] = archive[key]
    return draws


@pytest.fixture(scope="module")
def record():
    """The draws of version 0.1, and those of the mended cases in their place."""
    return read(RECORD) | read(MENDED)


@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_draws_are_the_same(case, record):
    for key in (key for key in KEYS if key[0] == case):
        name, setting = name_of(*key), key[1]
        then, now = record[name], draws_of(*key)
        assert set(then) == set(now), f"{name}: the draw has the fields it had"
        for field in ("ids", "drawn"):
            np.testing.assert_array_equal(now.get(field), then.get(field), f"{name}: {field}")
        close = 1e-9
        if "dtype" in SETTINGS[setting]:  # float32: sums of kernels differ between processors
            close = 1e-2 if any(kernel in name for kernel in ("quadratic", "rf_softmax")) else 1e-4
        for field in set(then) - {"ids", "drawn"}:
            np.testing.assert_allclose(
                now[field], then[field], rtol=0, atol=close, err_msg=f"{name}: {field}"
            )


def test_the_record_is_of_this_roster(record):
    assert set(read(RECORD)) == {name_of(*key) for key in KEYS}
    assert set(read(MENDED)) == {name_of(*key) for key in KEYS if differs(*key[:2])}
