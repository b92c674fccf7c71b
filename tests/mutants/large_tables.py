"""Faults of int8 rows, and of rows in a file."""

from tests.mutants.mutant import Mutant

INT8 = "tests/stores/test_int8.py::"
FILE = "tests/stores/test_row_file.py::"
MOVING = "tests/stores/test_stores_in_files.py::"
OTHERS = "tests/stores/test_resharding.py::"
RUNS = "tests/run/cli/test_rows_on_disk.py::"

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
        "for number in reversed(kept) if number >= wanted",
        "for number in kept if number >= wanted",
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
    Mutant(
        "large: rows are let go before they are kept",
        "stores/file_table.py",
        "        self.journal.save(slots)\n        self.file.write(slots, {",
        "        self.file.write(slots, {",
        f"{MOVING}test_a_file_is_a_table_in_memory_and_resumes_bit_for_bit",
    ),
    Mutant(
        "large: rows that were let go are valid",
        "stores/file_table.py",
        "        self.valid[slots] = False\n",
        "",
        f"{MOVING}test_a_removed_item_is_undone_too",
    ),
    Mutant(
        "large: who looks at a table begins it anew",
        "stores/file_table.py",
        "        if not self.has_begun:\n            return torch.full((1,)",
        "        self._begin()\n        if False:\n            return torch.full((1,)",
        f"{MOVING}test_looking_at_an_empty_table_loses_nothing_of_what_is_in_the_file",
    ),
    Mutant(
        "large: a state names the folder that its file was in",
        "stores/undo_journal.py",
        '{"file": self.file.path.name',
        '{"file": str(self.file.path)',
        f"{MOVING}test_a_state_is_true_wherever_the_files_are_moved_to",
    ),
    Mutant(
        "large: the first generation keeps nothing, though a state refers to it",
        "stores/undo_journal.py",
        "        self.leads_back = True\n        return",
        "        return",
        f"{FILE}test_a_table_that_is_filled_is_written_once",
    ),
    Mutant(
        "large: what a full disk took of a record stays",
        "stores/undo_journal.py",
        "os.ftruncate(self.handle, self.length)",
        "pass",
        f"{FILE}test_a_disk_that_fills_up_in_the_middle_of_a_run_loses_nothing",
    ),
    Mutant(
        "large: what was written since is copied too",
        "stores/resharding.py",
        "for number in self.undone:",
        "for number in ():",
        f"{OTHERS}test_rows_are_where_they_belong_and_those_of_before_as_they_were",
    ),
    Mutant(
        "large: rows are copied from where they would stand here",
        "stores/resharding.py",
        "self.file.read(slots + self.ahead)",
        "self.file.read(slots)",
        f"{OTHERS}test_rows_are_where_they_belong_and_those_of_before_as_they_were",
    ),
    Mutant(
        "large: all rows of a file are copied at once",
        "stores/resharding.py",
        "step = max(1, COPIED // sum(each.stride for each in target.columns.values()))",
        "step = len(self.slots)",
        f"{OTHERS}test_a_copy_takes_a_chunk_at_a_time",
    ),
    Mutant(
        "large: files of other processes go with the first state",
        "stores/file_table.py",
        'if self.former and reference["generation"] >= KEPT:',
        "if self.former:",
        f"{OTHERS}test_files_go_when_no_state_that_can_be_gone_back_to_is_in_them",
    ),
    Mutant(
        "large: files of other processes are forgotten when a state is loaded",
        "stores/file_table.py",
        'self.former = dict(own.get("former", {}))',
        "self.former = {}",
        f"{OTHERS}test_files_go_when_no_state_that_can_be_gone_back_to_is_in_them",
    ),
    Mutant(
        "large: files are removed, whoever they are of by now",
        "stores/undo_journal.py",
        "        if self._runs() != {run}:\n            return\n",
        "",
        f"{OTHERS}test_files_of_another_run_and_files_in_use_stay",
    ),
    Mutant(
        "large: a plan counts rows on disk as memory",
        "run/cli/planning/memory.py",
        "planned.cost.keeps_cache and not planned.on_disk",
        "planned.cost.keeps_cache",
        f"{RUNS}test_a_plan_is_what_lies_there",
    ),
    Mutant(
        "large: a run that cannot begin leaves its folder",
        "run/cli/runs.py",
        "shutil.rmtree(folder, ignore_errors=True)",
        "pass",
        f"{RUNS}test_a_run_that_cannot_begin_leaves_no_folder",
    ),
    Mutant(
        "large: more checkpoints are kept than lead back",
        "run/training/config.py",
        "self.cache.on_disk and self.keep_checkpoints > KEPT",
        "self.cache.on_disk and self.keep_checkpoints > 9",
        f"{RUNS}test_what_cannot_be_is_refused",
    ),
]
