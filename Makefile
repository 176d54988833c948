# `make sample` and `make test` do everything. Each builds the virtual environment first where it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc)
INSTALLED := $(VENV)/.installed
REPORT := results/sample/report/main
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: app sample test quick check format install data reports clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11-3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The environment of the web page: the project's own, with Gradio and what it wants otherwise laid over it.
app: .venv-app/.installed

.venv-app/.installed: constraints-app.txt $(INSTALLED)
	$(BIN)/python -m venv .venv-app
	@$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
	    > "$$(.venv-app/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/project.pth"
	@cut -d= -f1 constraints-app.txt | sed 's/^/^/; s/$$/==/' | grep -v -f - constraints.txt | cat - constraints-app.txt > .venv-app/constraints.txt
	.venv-app/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-app/constraints.txt -e '.[app]'
	@touch $@

data: $(INSTALLED)
	@dvc pull --quiet

sample: data
	@snakemake --cores $(CORES) --quiet host reason -- main
	@cat $(REPORT)/table_1.txt
	@echo "Look next: $(REPORT)/report.html (all in one page), $(REPORT)/segmentation.png, fgaseg show"

test: data
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

# Without long trainings and evaluations, the paper's scale and SLURM.
quick: data
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile -m "not slow and not paper and not slurm"

check: $(INSTALLED)
	ruff format --check .
	ruff check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint

format: $(INSTALLED)
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

reports: data
	@dvc repro

# The paper scale's results, weeks of GPU time, stay.
clean:
	rm -rf results/sample
