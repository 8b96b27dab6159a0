# `make up`: the whole product on a fresh clone. `make test`: all checks and tests. Nothing needed but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0
EXAMPLE := examples/airline
PILOTHOUSE_STARTED := $(shell date +%s)
export PILOTHOUSE_STARTED

.PHONY: up test test-engines check clean

up: $(VENV)/up
	$(BIN)/pilothouse up $(EXAMPLE)

test: check
	$(BIN)/python -m pytest

check: $(VENV)/dev
	$(BIN)/ruff check src tests benchmarks examples scripts
	$(BIN)/ruff format --check --quiet src tests benchmarks examples scripts
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/sizes.py
	$(BIN)/python scripts/settings_doc.py --check
	$(BIN)/python scripts/members_doc.py --check

# torch comes first and pinned: any other order may fetch a CUDA build of several GB.
$(VENV)/up: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"error: Pilothouse needs Python 3.11 or newer, this is {sys.version.split()[0]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || { echo "[1/4] making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[2/4] installing $(TORCH)"; $(PIP) $(TORCH)
	@echo "[3/4] installing requirements.lock"; $(PIP) -r requirements.lock
	@echo "[4/4] installing pilothouse"; $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/up
	@echo "installing what the checks and tests need"; $(PIP) -r requirements-dev.lock
	@touch $@

# Real engines that need environments of their own (several GB): kept out of `make test`.
ENGINES := $(CURDIR)/.cache/engines
test-engines: $(VENV)/dev $(ENGINES)/ready
	PILOTHOUSE_PEERS=$(ENGINES) PILOTHOUSE_VLLM_PYTHON=$(ENGINES)/vllm/bin/python \
	  PILOTHOUSE_TRITON_PYTHON=$(ENGINES)/triton/bin/python \
	  PILOTHOUSE_OPENVINO_PYTHON=$(ENGINES)/openvino/bin/python \
	  PILOTHOUSE_TGI_CLIENT_PYTHON=$(ENGINES)/tgi-client/bin/python \
	  $(BIN)/python -m pytest -m engine tests/engines tests/serve

$(ENGINES)/ready: scripts/engine_venv.py scripts/triton_venv.py scripts/tgi_clients_venv.py
	$(BIN)/python scripts/engine_venv.py vllm $(ENGINES)/vllm
	$(BIN)/python scripts/triton_venv.py $(ENGINES)/triton
	$(BIN)/python scripts/tgi_clients_venv.py $(ENGINES)/tgi-client
	PILOTHOUSE_PEERS=$(ENGINES) $(BIN)/python -m benchmarks.peers_venv litellm
	$(PYTHON) -m venv $(ENGINES)/openvino
	$(ENGINES)/openvino/bin/python -m pip install --quiet openvino-genai==2026.4.1.0 openvino==2026.4.1 \
	  openvino-tokenizers==2026.4.1.0 httptools msgspec
	@touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
