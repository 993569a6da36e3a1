# The two commands: `make demo` and `make test`. Each sets up a virtual environment in .venv first.
# On a machine where PyPI's torch would bring CUDA, ask for the CPU build:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_ARGS ?=
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check fuzz audit docs bench sapling clean help

help:           ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

demo: $(STAMP)  ## refine the embedded pair seven ways, verify, measure exploration exactly
	$(BIN)/timberkit demo --output demo

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(TEST_ARGS)

check: $(STAMP) ## lint, format, types, layer contract
	scripts/check

fuzz: $(STAMP)  ## mutate the files that strangers write, a minute for each parser
	TIMBERKIT_FUZZ_SECONDS=$(FUZZ_SECONDS) TIMBERKIT_FUZZ_SEED=$$(date +%s) \
		TIMBERKIT_FUZZ_FINDINGS=$(CURDIR)/build/fuzz \
		$(BIN)/python -m pytest -q -n 0 tests/fuzz

audit: $(STAMP) ## known vulnerabilities of the pinned packages, and all licences
	$(BIN)/python scripts/licences.py
	$(BIN)/python scripts/audit.py

docs: $(STAMP)  ## build the site of the docs into build/site
	$(BIN)/python scripts/update_commands.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(STAMP) ## measure refining and evaluating (half an hour), write docs/performance.md
	$(BIN)/python benchmarks/refine.py --model qwen3-0.6b --scaling --write-docs $(BENCH_ARGS)
	$(BIN)/python benchmarks/evaluation.py --agreement --write-docs

sapling: $(STAMP) ## train the embedded pair again, into build/sapling (about half an hour)
	$(BIN)/python -m timberkit.sapling.training --output build/sapling

clean:          ## remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo build

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		--constraint constraints.txt --editable '.[dev]'
	touch $@
