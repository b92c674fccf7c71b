"""Faults of int8 rows, and of rows in a file."""

from tests.mutants.mutant import Mutant

INT8 = "tests/stores/test_int8.py::"
FILE = "tests/stores/test_row_file.py::"

MUTANTS = [
    Mutant(
        "large: queries are scored as they are over int8 rows",
        "stores/reading.py",
        "return queries if store.quantized is None else rounded(queries)",
        "return queries",
        f"{INT8}test_the_law_is_that_of_the_rounded_numbers",
    ),
    Mutant(
        "large: products that may not count do",
        "compiled/block_masses.py",
        "dots[masked.rows[entry], masked.queries[entry]] = MASKED",
        "pass",
        f"{INT8}test_the_compiled_pass_is_its_twin",
    ),
    Mutant(
        "large: the rows that end a table within a block count as more",
        "stores/integer_masses.py",
        "bias = F.pad(bias, (0, short), value=-torch.inf)",
        "bias = F.pad(bias, (0, short))",
        f"{INT8}test_the_compiled_pass_is_its_twin",
    ),
    Mutant(
        "large: a view of some rows takes the masses of all",
        "ops/views.py",
        "            masses=None,\n",
        "",
        f"{INT8}test_a_scored_share_is_that_of_its_rows",
    ),
    Mutant(
        "large: the next window is read into the memory of this one",
        "stores/row_file.py",
        "rest = memory[(turn + 1) % 2]",
        "rest = memory[0]",
        f"{FILE}test_rows_are_those_of_a_table_in_memory",
    ),
    Mutant(
        "large: rows are overwritten before they are kept",
        "stores/file_table.py",
        "self.journal.save(slots)\n        self.file.write(slots, columns)",
        "self.file.write(slots, columns)\n        self.journal.save(slots)",
        f"{FILE}test_states_lead_back_also_several_at_once",
    ),
    Mutant(
        "large: a row is kept each time that it is overwritten",
        "stores/undo_journal.py",
        "        self._mark(slots)\n\n",
        "\n",
        f"{FILE}test_states_lead_back_also_several_at_once",
    ),
    Mutant(
        "large: a record that is torn is taken for whole",
        "stores/undo_journal.py",
        "if zlib.crc32(payload) != checksum:",
        "if False:",
        f"{FILE}test_a_record_that_is_not_whole_is_passed_over",
    ),
    Mutant(
        "large: generations are undone from the oldest up",
        "stores/undo_journal.py",
        "for number in reversed(kept):\n            if number < wanted:\n                break",
        "for number in kept:\n            if number < wanted:\n                continue",
        f"{FILE}test_states_lead_back_also_several_at_once",
    ),
    Mutant(
        "large: nothing is undone",
        "stores/undo_journal.py",
        "self.file.write(slots, columns)",
        "pass",
        f"{FILE}test_a_run_that_is_killed_is_the_run_that_never_was",
    ),
    Mutant(
        "large: a file is made without its room",
        "stores/row_file.py",
        "os.posix_fallocate(handle, 0, size)",
        "os.ftruncate(handle, size)",
        f"{FILE}test_space_is_taken_at_once",
    ),
]
