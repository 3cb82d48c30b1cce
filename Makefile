# Everything runs in .venv. `make quickstart` tries it all; `make test` checks it all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
STAMP := $(VENV)/.installed
DEMO := yolo_nas_s_int8

.DEFAULT_GOAL := help
.PHONY: help quickstart quick test nightly docs check chaos fuzz sbom bench sweep feed simulate video memory results clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml samples/pyproject.toml requirements-py313.txt
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}; name another with make PYTHON=python3.11"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and by the exact version that is tested, so that one already there is taken.
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install --quiet ./samples --editable '.[dev]' $(TORCH)
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
		$(BIN)/python -m pip install --quiet --no-deps -r requirements-py313.txt; fi
	touch $@

quickstart: $(STAMP)  ## Build the demo model, serve it, detect on bus.jpg, stop
	$(BIN)/nas-build --weights demo --variant s --precision int8 --target openvino
	$(BIN)/nas-serve --model $(DEMO) --http-port 0 --grpc-port 0 --metrics-port 0 -- \
		$(BIN)/nas-client detect samples/bus.jpg --save output
	@echo 'The annotated picture is output/bus.jpg'

quick: $(STAMP)  ## Run the tests that need no server and build no model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m quick --numprocesses logical --maxprocesses 4

test: $(STAMP)  ## Run the tests against a real Triton
	@# A thread each: processes that test side by side share the cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not nightly' --numprocesses logical --maxprocesses 4

nightly: $(STAMP)  ## Run the tests that are left: other Pythons, CPUs, GPUs, environments and signals
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly --numprocesses logical --maxprocesses 4

docs: $(STAMP)  ## Build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(STAMP)  ## Lint, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --config-file '' --ignore-missing-imports benchmarks
	$(BIN)/lint-imports --no-cache

chaos: $(STAMP)  ## An hour and 100,000 requests, good and hostile, while processes of the server are killed
	test -d model_repository/$(DEMO) || $(BIN)/nas-build --weights demo --variant s --precision int8 --target openvino
	$(BIN)/python tests/chaos/chaos.py --seconds 3600 --requests 100000

sbom: $(STAMP)  ## Write a software bill of materials of the environment to sbom.cdx.json
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.cdx.json

fuzz: $(STAMP)  ## Fuzz the readers of what strangers send, a minute each
	$(BIN)/python -m pip install --quiet --only-binary :all: 'atheris>=3' # has no wheel for Python 3.10
	failed=0; for target in tests/fuzz/corpus/*; do \
		$(BIN)/python tests/fuzz/fuzz.py "$${target##*/}" --seconds 60 || failed=1; done; exit $$failed

bench: $(STAMP)  ## Measure latency, throughput and memory beside what people use instead, in one run
	$(BIN)/python benchmarks/side_by_side.py --json benchmarks/side_by_side.json --plot benchmarks/side_by_side.png

sweep: $(STAMP)  ## Measure what batching settings do on this machine
	$(BIN)/python benchmarks/batching.py --json benchmarks/batching.json --plot benchmarks/batching.png
	$(BIN)/python benchmarks/batching.py --precision fp16 --settings default --json benchmarks/batching_fp16.json

feed: $(STAMP)  ## Measure everything but the engine: pictures per second, CPU time per picture
	$(BIN)/python benchmarks/feed.py --json benchmarks/feed.json --plot docs/feed.png

simulate: $(STAMP)  ## Simulate pods and the autoscaler under a day's traffic
	$(BIN)/python benchmarks/simulate.py --json benchmarks/simulate.json --plot docs/simulate.png

video: $(STAMP)  ## Measure videos through nas-client detect beside the engine alone
	$(BIN)/python benchmarks/video.py --json benchmarks/video.json

memory: $(STAMP)  ## Measure the memory of every process, and whether it grows over 5,000 requests
	$(BIN)/python benchmarks/memory.py --json benchmarks/memory.json

results: $(STAMP)  ## Measure accuracy and latency of each model, write the table into README.md
	$(BIN)/python benchmarks/accuracy.py --json benchmarks/accuracy.json --readme README.md

clean:  ## Remove the environment, what was built and what was drawn
	rm -rf $(VENV) output model_repository/yolo_nas_*
