# make reproduce | report | results | test | test-fast | torture | ui | bench | lint | docs: each does its own set-up; nothing else is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Rules call `sparsetune` by name, so the environment comes first in PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Telemetry of libraries is off, and every job uses the threads that its rule gives it.
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: reproduce report results test test-fast test-cluster test-onnx torture ui bench lint docs format clean

reproduce: $(READY)
	sparsetune check --config config/config.yaml
	snakemake --cores all --logger rich
	@sparsetune show --results results/mini

# One file for one suite, in MLflow as well; CONFIG names another. Nothing is run, no network needed.
CONFIG ?= config/config.yaml
report: $(READY)
	@told=$$(sparsetune check --config "$(CONFIG)") && suite=$$(echo "$$told" | sed -n 's/^suite \([^:]*\):.*/\1/p') && \
	snakemake --configfile "$(CONFIG)" --report "results/$$suite/report.html" && \
	sparsetune track --config "$(CONFIG)" --results results --resources resources && echo "Open results/$$suite/report.html."

# What the repository keeps of the suites in results/: docs/results, the blocks of docs/studies, and README's.
results: $(READY)
	sparsetune results --results results --output docs/results --readme README.md --studies docs/studies

test: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal -m "not onnx" tests

# Formulas, refusals, plans: what needs no training, in less than a minute.
test-fast: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal -m "not slow" tests/unit

# The families that `make test` does not export, as ONNX files: some minutes.
test-onnx: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal -m onnx tests/e2e

# On a Slurm that the tests start; needs Debian's slurm-wlm and munge, and sparsetune[slurm].
test-cluster: $(READY)
	SPARSETUNE_TEST_CLUSTER=1 OMP_NUM_THREADS=1 pytest tests/cluster

# Hard days: killed processes, full disks, little memory, stores that are away. Prints what was lost; nothing may be.
torture: $(READY)
	OMP_NUM_THREADS=1 python tests/torture

ui: $(READY)
	@sparsetune links --results results
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "That server runs already." ;; *) mlflow ui --host 127.0.0.1 --port 5000 \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///results/mlflow.db}";; esac

bench: $(READY)
	snakemake --cores all results/mini/runs/mini-gpt2/mini-e2e/full/seed-1/model.safetensors \
	  resources/datasets/mini-sst2/record.json resources/backbones/mini-bert/record.json \
	  results/mini/runs/mini-bert/mini-sst2/full/seed-1/model.safetensors
	for name in workflow suite starts reporting loop dsee earlybert tracking gpu; do \
	  python benchmarks/$$name.py || exit 1; done

lint: $(READY)
	ruff format --check .
	ruff check .
	mypy
	snakefmt --check Snakefile rules
	snakemake --lint

# As files: build/site/index.html opens without a server.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "Open build/site/index.html."

format: $(READY)
	ruff format .
	ruff check --fix .
	snakefmt Snakefile rules

clean:
	rm -rf results resources logs .snakemake

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
