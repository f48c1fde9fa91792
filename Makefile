# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin

.PHONY: setup setup-guests demo test test-rest test-all check docs package format clean

setup: $(VENV)/.installed

# What the demo needs comes first, so that it is soon there.
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "autoadapt needs Python 3.10 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[demo]'
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(BIN)/python -m pip install -e '.[zoo,onnx,plot,docs,dev]'
	touch $@

# Replaces nothing that is installed; what cannot be had is said, and its tests are left out.
setup-guests: setup
	$(BIN)/python tests/guests.py

demo: $(VENV)/.demo
	$(BIN)/python -m autoadapt demo
	$(BIN)/python examples/digits.py

# $(call run_tests,MARKS): those side by side, then alone those of them that measure time or memory, whatever came of
# the others. Where none is left (5) nothing failed; without this a rest of guests that are not there would.
define run_tests
	@status=0; \
	pytest() { $(BIN)/python -m pytest --durations=10 "$$@" || test $$? = 5 || status=1; }; \
	pytest -n $(WORKERS) --dist worksteal -m '($(1)) and not measures'; \
	pytest $$(grep -rl --include='*.py' mark.measures tests) -m '($(1)) and measures'; \
	exit $$status
endef

test: setup
	$(call run_tests,not slow and not guest)

# What `make test` leaves out: what takes over 20 seconds, and what needs other people's packages.
test-rest: setup-guests
	$(call run_tests,slow or guest)

# Both, also where the first fails.
test-all: setup
	$(MAKE) --keep-going test test-rest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 88 $$(git ls-files '*.md')
	$(BIN)/mypy
	$(MAKE) docs
	$(MAKE) package

# Builds wheel and sdist, checks their metadata, and runs the first block of README with the wheel in an empty
# environment, which borrows torch and its like from this one (EMPTY=1 installs everything anew, which takes minutes).
package: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/wheel_install.py dist $(if $(EMPTY),--empty)

# The site in `site/`; a warning, such as a link that leads nowhere, is an error (but none is seen with --quiet).
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/ruff format --line-length 88 $$(git ls-files '*.md')

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache
