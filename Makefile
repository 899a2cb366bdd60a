# `make` alone lists what there is. Everything but help and clean first sees to the environment.
PYTHON ?= python3
BIN := .venv/bin
A ?= attention
M ?= masks
ARGS ?=
SERVE ?= 1
LOCK := requirements.lock

# nbgrader calls programs of the environment by name.
WITH_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"

# Each part of the tests runs in its own process, and all of them run even if one fails. A file stays
# in one process where its tests share something that takes minutes to make.
PYTEST := $(WITH_PATH) $(BIN)/python -m pytest
UNIT := $(PYTEST) -n 2 --dist loadgroup tests/unit $(ARGS)
NOTEBOOKS := $(PYTEST) -n 2 --dist loadfile --nbval-lax book $(ARGS)
COURSE := $(PYTEST) -n 2 --dist loadfile tests/course $(ARGS)
BROWSER := $(PYTEST) -n 2 --dist loadfile tests/browser $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-notebooks test-course test-browser book experiments pdf lab grade report \
        matrix mutants doctor lint format screenshots lock clean FORCE

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.ready: FORCE
	@$(PYTHON) llmr_ref/set_up.py

demo: .venv/.ready ## book, graded sample class and report on one page (SERVE=0: only make them)
	@$(BIN)/llmr demo $(if $(filter 0,$(SERVE)),--no-serve)

test: .venv/.ready ## everything: unit, notebooks, course, browser (ARGS=... goes to pytest)
	@failed=; \
	$(UNIT) || failed="$$failed unit"; \
	$(NOTEBOOKS) || failed="$$failed notebooks"; \
	$(COURSE) || failed="$$failed course"; \
	$(BROWSER) || failed="$$failed browser"; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi

test-unit: .venv/.ready ## only the tests that need neither nbgrader nor a browser
	@$(UNIT)

test-notebooks: .venv/.ready ## only the stored outputs of the chapters
	@$(NOTEBOOKS)

test-course: .venv/.ready ## only the tests that run nbgrader
	@$(COURSE)

test-browser: .venv/.ready ## only the tests in Chromium
	@$(BROWSER)

book: .venv/.ready ## build the book into _build/html (ARGS="--url ADDRESS": where it will live)
	@$(BIN)/llmr book build $(ARGS)

experiments: .venv/.ready ## run the book's experiments again and compare with what is stored (most of an hour)
	@$(BIN)/llmr experiment --all --again

pdf: book ## the whole book as _build/llmr.pdf
	@$(BIN)/llmr book pdf

lab: .venv/.ready ## JupyterLab on the release notebooks and the chapters
	@$(BIN)/llmr lab

grade: .venv/.ready ## grade what was submitted: make grade A=attention
	@$(BIN)/llmr grade $(A)

report: .venv/.ready ## write the class report: make report A=attention
	@$(BIN)/llmr report $(A)

matrix: .venv/.ready ## which wrong answers and mutants all checks catch: one with make matrix A=attention
	@$(WITH_PATH) $(BIN)/llmr matrix $(if $(filter command environment,$(firstword $(origin A))),$(A),--all)

# mutmut changes one thing in the module, an operator, a constant, an argument, and runs its tests, but
# for those of torch.compile, which cannot see through mutmut's switches.
mutants: .venv/.ready ## which changes of a module its tests overlook: make mutants M=masks
	@rm -rf _build/mutants/$(M) && mkdir -p _build/mutants/$(M)/tests/unit
	@cp -r llmr_ref README.md pyproject.toml _build/mutants/$(M)
	@cp tests/conftest.py _build/mutants/$(M)/tests && cp tests/unit/test_$(M).py _build/mutants/$(M)/tests/unit
	@printf '%s\n' '[tool.mutmut]' 'source_paths = ["llmr_ref/$(M).py"]' 'also_copy = ["llmr_ref"]' \
	    'pytest_add_cli_args = ["-k", "not compile"]' \
	    'pytest_add_cli_args_test_selection = ["tests/unit/test_$(M).py"]' >> _build/mutants/$(M)/pyproject.toml
	@cd _build/mutants/$(M) && $(WITH_PATH) mutmut run --max-children 2 && $(WITH_PATH) mutmut results

doctor: .venv/.ready ## what is present, what is missing and what to do about it
	@$(BIN)/llmr doctor

lint: .venv/.ready ## ruff, mypy and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy llmr_ref
	$(BIN)/lint-imports

format: .venv/.ready ## let ruff write the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: .venv/.ready ## retake the README's pictures
	@$(WITH_PATH) $(BIN)/python tests/browser/take_screenshots.py

# The local version and the CUDA packages depend on where pip found torch, so they stay out: pip
# brings what the torch of the machine at hand needs.
lock: .venv/.ready ## remake requirements.lock from pyproject.toml (ARGS=--upgrade for newer ones)
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
	    --annotation-style=line --output-file $(LOCK) $(ARGS) pyproject.toml
	@sed -i.old -E -e 's/^(torch==[^ +]+)\+[a-z0-9.]+/\1/' -e '/^(nvidia-|cuda-|triton==)/d' $(LOCK)
	@rm $(LOCK).old

clean: ## remove what was built; the environment and all work under assignments/ stay
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find book llmr_ref tests -name __pycache__ -type d -prune -exec rm -rf {} +
