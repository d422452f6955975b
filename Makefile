# Hormesis: `make help` lists all targets.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(CURDIR)/$(VENV)/bin
OUT    ?= out
ARGS   ?=
PYTEST  = $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export DS_BUILD_OPS = 0
export RAY_USAGE_STATS_ENABLED = 0
export PATH := $(BIN):$(PATH)

.PHONY: help setup clean sweep plan status test-fast test test-isa test-faults test-train-faults fuzz lint lint-files format \
        bench bench-data bench-reader bench-train bench-eval bench-toy bench-checkpoint gpu-check gpu-carry

help: ## print this list
	@grep -hE '^##@|^[a-z-]+:.*##' Makefile | sed -E 's/^##@ (.*)/\n\1/; s/^([a-z-]+):.*## /  \1\t/' | expand -t 20

##@ Set up

setup: $(VENV)/.ready ## create .venv with all dependencies at the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

##@ Run

sweep: setup ## run the whole experiment (recipe laptop) into $(OUT); more flags in ARGS="…"
	$(BIN)/python launch/sweep.py --recipe laptop --out $(OUT) $(ARGS)

plan: setup ## print the cost of the paper's sweep
	$(BIN)/python launch/sweep.py --plan --recipe paper $(ARGS)

status: setup ## print the state of the sweep in $(OUT), per ratio and stage
	$(BIN)/python launch/status.py --out $(OUT)

##@ Check

test-fast: setup ## tests of the inner loop in two minutes: no Ray, no browser, no multi-process training
	$(PYTEST) -m "not slow" $(ARGS)

test: setup ## all tests, as CI runs them, in two processes
	$(PYTEST) $(ARGS)

test-isa: setup ## numeric tests with the instructions of older CPUs
	for isa in default avx2; do \
	    ATEN_CPU_CAPABILITY=$$isa ONEDNN_MAX_CPU_ISA=AVX2 \
	        $(PYTEST) -m numeric tests/training tests/eval || exit 1; \
	done

lint: setup lint-files ## ruff, pyright, import contracts; container, cluster and workflow files
	ruff check .
	ruff format --check .
	pyright
	lint-imports

lint-files: setup
	hadolint docker/Dockerfile
	check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml

format: setup ## format the code and apply ruff's fixes
	ruff format .
	ruff check --fix .

test-faults: setup ## disturb builds, reads and trainings, and print the outcomes; ARGS="--trials 3"
	$(BIN)/python tests/faults/matrix.py $(ARGS)

test-train-faults: setup ## disturb trainings only
	$(BIN)/python tests/faults/matrix.py --only train $(ARGS)

fuzz: setup ## coverage-guided fuzzing of readers and cleaners; ARGS="--runs 100000 json_lines"
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/fuzz.py $(ARGS)

##@ Measure (each benchmark measures a peer in the same run)

bench: setup ## all benchmarks
	for file in tests/benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

bench-data: setup ## data build against datatrove, Megatron and datasets.map; ARGS="--corpus FILE… --tokenizer FILE"
	$(PIP) --editable '.[bench]'
	$(BIN)/python tests/benchmarks/bench_data.py $(ARGS)

bench-reader: setup ## token readers; ARGS="--peers PYTHON" names an interpreter with mosaicml-streaming and litdata
	$(BIN)/python tests/benchmarks/bench_reader.py $(ARGS)

bench-train: setup ## training step and loop; ARGS="--shape olmo-1b" on a GPU
	$(BIN)/python tests/benchmarks/bench_train.py $(ARGS)

bench-eval: setup ## probes, steered generation and benchmark questions; coverage of the intervals
	$(PIP) --editable '.[bench]'
	$(BIN)/python tests/benchmarks/bench_eval.py
	$(BIN)/python tests/benchmarks/bench_generation.py
	$(BIN)/python tests/benchmarks/bench_questions.py
	$(BIN)/python tests/benchmarks/bench_coverage.py

bench-toy: setup ## toy experiment: all models in one loop against one model at a time
	$(BIN)/python tests/benchmarks/bench_toy.py

bench-checkpoint: setup ## time that training waits for a checkpoint into a slow store
	$(BIN)/python tests/benchmarks/bench_checkpoint.py $(ARGS)

gpu-check: setup ## everything that only a GPU can tell, in ten minutes; ARGS="--parts speed --minutes 5 --out FOLDER"
	$(BIN)/python tests/benchmarks/gpu_check.py $(ARGS)

gpu-carry: setup ## gather in a folder what a bare CUDA image needs for gpu-check; ARGS="--to FOLDER --python 3.12"
	$(BIN)/python tests/benchmarks/carry_gpu_check.py $(ARGS)
