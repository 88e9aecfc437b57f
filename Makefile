# Every target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# A worker a core; the tests of a file share what it makes, and the slow ones, which are sorted first, begin first.
APART := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help demo figures gallery notebooks test types tests quick lint format docs long vllm organism clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.user: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ .venv/.user

demo: .venv/.user ## set up, then run the whole method on the shipped organism (writes demo/report.html)
	$(BIN)/mastlens demo --out demo

figures: .venv/.user ## draw everything in figures/ anew, from demo/ (made if missing) and study/ (SVG and PDF need a Chromium)
	$(BIN)/mastlens figures --out figures --demo demo $(if $(wildcard study),--study study)

gallery: .venv/.dev ## a page of every figure with the call that makes it, from invented tables (writes figures/gallery.html)
	$(BIN)/python -m tests.gallery --out figures/gallery.html

notebooks: .venv/.dev ## make the .ipynb of every notebook from its plain-text twin
	$(BIN)/python notebooks/sync.py

test: .venv/.dev ## set up, then pass lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs=2 --keep-going types tests

types: .venv/.dev
	$(BIN)/pyright

tests: .venv/.dev
	$(BIN)/python -m pytest $(APART)

quick: .venv/.dev ## tests without the slow ones
	$(BIN)/python -m pytest $(APART) -m "not slow and not long" -q

lint: .venv/.dev ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.dev ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.dev ## build the pages into build/site; a broken link or an unknown name fails
	$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site

long: .venv/.dev ## what takes longer than the tests: the demo from a built wheel, its result in docs/results; the longest tests; fuzzing; failures of every write; kills
	$(BIN)/python benchmarks/wheel.py --out docs/results/wheel.md $(if $(wildcard demo),--before demo)
	$(BIN)/python -m pytest $(APART) -m long
	$(BIN)/python -m tests.fuzz --inputs 10000 --command-line 200
	$(BIN)/python -m tests.injection
	$(BIN)/python -m tests.kills --times 30

vllm: .venv/.dev ## test the engine vllm against vLLM itself; MASTLENS_VLLM_PYTHON names the Python of its environment (docs/vllm.md)
	$(BIN)/python -m pytest -m long tests/integration/test_vllm.py

organism: .venv/.dev ## train the shipped lineage anew into build/qwen2
	$(BIN)/mastlens organism build qwen2 --out build/qwen2

clean: ## remove what the targets above made, the environment included
	rm -rf .venv demo build
