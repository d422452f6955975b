# Hormesis: `make help` lists what can be done.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(CURDIR)/$(VENV)/bin
OUT    ?= out
ARGS   ?=

export DS_BUILD_OPS = 0
export RAY_USAGE_STATS_ENABLED = 0
export PATH := $(BIN):$(PATH)

.PHONY: help setup sweep plan status test test-faults fuzz lint format bench bench-data bench-reader clean

help: ## print this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv with everything at the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

sweep: setup ## run the whole experiment (recipe laptop) into $(OUT); more flags in ARGS="…"
	$(BIN)/python launch/sweep.py --recipe laptop --out $(OUT) $(ARGS)

plan: setup ## what the paper's sweep would take
	$(BIN)/python launch/sweep.py --plan --recipe paper $(ARGS)

status: setup ## ratio × stage table of the sweep in $(OUT)
	$(BIN)/python launch/status.py --out $(OUT)

test: setup ## all tests
	$(BIN)/python -m pytest $(ARGS)

test-faults: setup ## break builds, reads and trainings, and print what came of it; ARGS="--trials 3"
	$(BIN)/python tests/faults/matrix.py $(ARGS)

.PHONY: test-train-faults
test-train-faults: setup ## the trainings alone
	$(BIN)/python tests/faults/matrix.py --only train $(ARGS)

fuzz: setup ## fuzz readers and cleaners by coverage; ARGS="--runs 100000 json_lines"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]' --constraint constraints.txt
	$(BIN)/python tests/fuzz/fuzz.py $(ARGS)

lint: setup ## ruff, pyright, import contracts, container and cluster files
	ruff check .
	ruff format --check .
	pyright
	lint-imports
	$(MAKE) --no-print-directory lint-docker

.PHONY: lint-docker
lint-docker:
	hadolint docker/Dockerfile
	check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

format: setup ## let ruff format and mend
	ruff format .
	ruff check --fix .

bench: setup ## benchmarks, each against a peer in the same run
	for file in tests/benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

bench-data: setup ## the data chain beside datatrove, Megatron and datasets.map; ARGS="--corpus FILE… --tokenizer FILE"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' --constraint constraints.txt
	$(BIN)/python tests/benchmarks/bench_data.py $(ARGS)

bench-reader: setup ## readers of tokens; ARGS="--peers PYTHON" names one that has mosaicml-streaming and litdata
	$(BIN)/python tests/benchmarks/bench_reader.py $(ARGS)

.PHONY: bench-train
bench-train: setup ## training beside its peers; ARGS="--shape olmo-1b" on a GPU; see the file
	$(BIN)/python tests/benchmarks/bench_train.py $(ARGS)

.PHONY: bench-eval
bench-eval: setup ## evaluation beside its peers: probes, permutations, steered generation; coverage of the intervals
	$(BIN)/python tests/benchmarks/bench_eval.py
	$(BIN)/python tests/benchmarks/bench_coverage.py

.PHONY: bench-checkpoint
bench-checkpoint: setup ## how long training stands still for a checkpoint into a slow store
	$(BIN)/python tests/benchmarks/bench_checkpoint.py $(ARGS)

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
