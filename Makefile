# One command each; every verb sets up what it needs on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs
DIST := .venv/.dist
EMPTY := build/empty
LOWEST := .venv-lowest
# Where torch comes from, as pip options: on Linux PyPI's build brings CUDA with it.
PIP_TORCH ?=
# Two test processes of one thread each: torch with more threads than cores is many times slower.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: install demo test test-all check mutants docs dist versions bench

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0 $(PIP_TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[run,transformers,index,dev]'
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

$(DIST): $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[dist]'
	touch $@

demo: install  ## train four retrievers over WordNet's 117,659 entries, compare them, then search
	$(BIN)/negcache demo

test: install  ## the fast tests, doctests and the import contract
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist loadfile -m "not slow and not network"

test-all: install  ## everything, with the slow and the network tests, and the lowest versions
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist loadfile
	$(MAKE) versions

versions:  ## the fast tests with the lowest versions allowed (the newest are constraints.txt)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install -q -c constraints-lowest.txt torch==2.13.0 $(PIP_TORCH)
	$(LOWEST)/bin/pip install -q -c constraints-lowest.txt -e '.[run,transformers,index,dev]'
	$(ONE_THREAD) $(LOWEST)/bin/pytest -n 2 --dist loadfile -m "not slow and not network" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::RuntimeWarning

check: install  ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

mutants: install  ## put known faults into copies of the library: a test must see each
	$(ONE_THREAD) $(BIN)/python -m tests.mutants

docs: $(DOCS)  ## build the site into site/ (warnings are errors), look at it, run all code on it
	@command -v chromedriver >/dev/null || \
		echo "No browser: nobody looks at the site. apt-get install chromium chromium-driver"
	$(BIN)/python -m benchmarks.start_picture
	$(ONE_THREAD) $(BIN)/pytest tests/test_readme.py tests/examples tests/benchmarks/test_figures.py tests/site src

dist: $(DIST)  ## wheel and sdist in dist/, checked, and tried in an empty environment
	rm -rf dist $(EMPTY)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(EMPTY)
	$(EMPTY)/bin/pip install -q -c constraints.txt torch==2.13.0 $(PIP_TORCH)
	$(EMPTY)/bin/pip install -q -c constraints.txt dist/*.tar.gz
	$(EMPTY)/bin/python -I -W error -c "import negcache; print('the sdist without extras:', negcache.DotScore())"
	$(EMPTY)/bin/pip install -q -c constraints.txt --force-reinstall --no-deps dist/*.whl
	$(EMPTY)/bin/pip install -q -c constraints.txt "$$(echo dist/*.whl)[run]"
	$(EMPTY)/bin/python -I scripts/run_readme.py

bench: install  ## the questions of benchmarks/, results appended; hours
	for name in draw_cost estimator_grid memory first_comparison rho_sweep cache_size_sweep \
		cheap_encoder costly_encoder kernel_error draw_cost_vs_items sum_memory \
		proposal_quality large_head sampler_bias extreme_labels index_upkeep \
		index_draw_cost memory_vs_quality second_edition hosts against_mnrl \
		language_model_head shard_traffic soak soak_streaming streaming million_passages \
		int8_draw disk_cache_draw draw_cost_by_sampler index_upkeep_per_row tree_counts automatic gradient_cosine small_transformer equal_footing fuzz; do $(BIN)/python -m benchmarks.$$name || exit 1; done
