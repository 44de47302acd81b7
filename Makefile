# make demo: the whole workflow on the embedded default (E. coli K-12); make test: checks and tests.
PYTHON ?= python3
# For a CPU build of torch on Linux: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test docs gpu-kit clean

demo: .venv/workflow
	snakemake -s snakemake/Snakefile --workflow-profile snakemake/profiles/local

test: .venv/dev
	ruff check
	ruff format --check
	mypy
	snakefmt --check snakemake
	pytest -n 3 --dist loadfile --no-loadscope-reorder

# The site of docs/, the README and the references, in .venv/site.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet -f .mkdocs.yml

# Packs what the GPU kit needs on a machine without a network, and prints the commands to give there.
gpu-kit: .venv/dev
	python -m tests.gpu.pack

# The stamp goes last, so that a killed installation is done again.
.venv/workflow .venv/dev .venv/docs: pyproject.toml .ci/constraints.txt .ci/transformers.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c .ci/constraints.txt -e '.[$(@F)]'
	test $(@F) != dev || $(BIN)/python -m pip install -q --no-deps --upgrade --target .venv/transformers -r .ci/transformers.txt
	touch $@

clean:
	rm -rf .venv results .snakemake .gpu
