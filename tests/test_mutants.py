"""Every known fault has a place in the library, and tests that are there to see it.

Code that moves takes its faults along; ``python -m tests.mutants`` runs them.
"""

import ast
from collections import Counter

from tests.mutants.__main__ import MUTANTS, ROOT

SOURCE = ROOT / "src" / "negcache"


def test_the_old_text_of_each_is_there_once():
    texts = {mutant.file: (SOURCE / mutant.file).read_text() for mutant in MUTANTS}
    found = {mutant.name: texts[mutant.file].count(mutant.old) for mutant in MUTANTS}
    assert {name: count for name, count in found.items() if count != 1} == {}


def test_each_leaves_a_file_that_can_be_read():
    for mutant in MUTANTS:
        text = (SOURCE / mutant.file).read_text()
        assert mutant.old != mutant.new, mutant.name
        ast.parse(text.replace(mutant.old, mutant.new), mutant.name)


def test_the_tests_of_each_are_there():
    missing = [mutant.name for mutant in MUTANTS if not all(map(is_there, mutant.tests.split()))]
    assert missing == []


def is_there(test: str) -> bool:
    file, _, function = test.partition("::")
    if not (ROOT / file).exists():
        return False
    return not function or f"def {function.partition('[')[0]}(" in (ROOT / file).read_text()


def test_no_two_have_one_name():
    names = Counter(mutant.name for mutant in MUTANTS)
    assert [name for name, count in names.items() if count > 1] == []
