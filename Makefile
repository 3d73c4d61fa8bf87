# `make demo` and `make test` set up everything they need, in an environment of their own.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready

.PHONY: demo test test-all newest peer lint docs

demo: $(READY)
	$(VENV)/bin/ofmu demo --out out/demo --overwrite

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 -m "not slow"

test-all: $(READY)
	$(VENV)/bin/python -m pytest -n 2

# The core with the newest versions that PYTHON gets: make newest PYTHON=python3.13 VENV=.venv313
newest:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade --editable '.[test]'
	$(VENV)/bin/python -m pytest -n 2 -m "not slow" tests/bilevel tests/losses tests/aggregators \
		tests/test_architecture.py

# With torch, transformers, peft and wandb, which the tests of these files use where they are.
peer: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test,peer,hub,wandb]'
	$(VENV)/bin/python -m pytest -n 2 tests/models/test_families.py tests/models/test_huggingface.py \
		tests/models/test_hub.py tests/models/test_peft.py tests/models/vision/test_peers.py \
		tests/data/test_chat.py tests/data/test_tokenizer.py tests/data/test_records.py \
		tests/data/test_multiple_choice.py tests/data/test_muse.py tests/data/test_wmdp_corpora.py \
		tests/evals/test_generation.py tests/evals/test_transformers_evaluation.py \
		tests/evals/test_multiple_choice.py tests/runs/test_checkpoints.py tests/runs/test_watching.py

lint: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ofmu_jax needs Python >= 3.11; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
