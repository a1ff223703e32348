# make setup | demo | demo-real | test | soak | lint | docs     (each can be run again at any time; nothing is done twice)
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
RUN := $(PY) -m panoptic_fusion
STAMP := $(VENV)/.panoptic_fusion_installed
DEMO_DATA := datasets/toy
DEMO_OUT := output/toy
# of demo-real; DATA is required. OPTS is KEY VALUE ..., without a space in a value: each word reaches the tool as it is.
OUT ?= output/real
CONFIG ?= camvid/panoptic_fpn_lite0.yaml
OPTS_QUOTED = $(foreach word,$(OPTS),'$(subst ','\'',$(word))')
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real test test-slow soak lint docs

help:
	@echo "make setup   create $(VENV) and install the pinned requirements and detectron2 (about 6 GB, no compiler)"
	@echo "make demo    make toy street scenes, train on them, evaluate, draw pictures (about 10 minutes on 2 cores)"
	@echo "make demo-real DATA=FOLDER [OUT=output/real] [ITERATIONS=1000] [CONFIG=camvid/panoptic_fpn_lite0.yaml]"
	@echo "             [WEIGHTS=FILE] [OPTS='KEY VALUE ...']"
	@echo "             fine-tune a pretrained light model on your own images (docs/your_own_data.md), or with"
	@echo "             CONFIG=own/panoptic_fpn_r50_coco.yaml a network trained on COCO (docs/fine_tuning.md)"
	@echo "make test    run the tests; make test-slow runs those that take longer"
	@echo "make soak    kill, starve and attack every command; takes long, and resumes (output/soak)"
	@echo "make lint    check the style and the layers (which part of the package imports which)"
	@echo "make docs    build the documentation as a website in site/"

setup: $(STAMP)

# A detectron2 that is importable is used as it is, otherwise requirements-detectron2.txt.
$(STAMP): requirements.txt requirements-dev.txt requirements-detectron2.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@test -x $(PY) || { echo "== creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "== installing the pinned requirements into $(VENV) (about 6 GB, some minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps panopticapi-lite==0.2.0
	@$(PY) -c 'import detectron2' 2>/dev/null && echo "== detectron2: using the one that is installed" || { \
		echo "== installing detectron2 (sal-detectron2 0.7.2, no compiler)"; \
		$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
			--python-version 3.10 --target "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
			-r requirements-detectron2.txt; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(PY) -c 'import panoptic_fusion' && touch $@ && echo "== ready: $(VENV)"

demo: setup
	@echo "== 1/4 toy street scenes -> $(DEMO_DATA)"
	@$(RUN) prepare toy --output $(DEMO_DATA)
	@echo "== 2/4 training and evaluation -> $(DEMO_OUT)"
	@$(RUN) train --config-file toy/panoptic_fpn_r18.yaml --resume OUTPUT_DIR $(DEMO_OUT)
	@echo "== 3/4 pictures: input, ground truth, prediction -> $(DEMO_OUT)/pictures"
	@$(RUN) compare --model $(DEMO_OUT) --dataset toy_val --output $(DEMO_OUT)/pictures --num-images 8
	@echo "== 4/4 results"
	@cat $(DEMO_OUT)/results.md
	@echo "Pictures: $(DEMO_OUT)/pictures   model: $(DEMO_OUT) (try: $(RUN) demo --model $(DEMO_OUT) --input IMAGE --output FOLDER)"

demo-real: setup
	@test -n "$(DATA)" || { echo "make demo-real needs DATA=FOLDER, images with annotations: see docs/your_own_data.md"; exit 2; }
	@$(RUN) fine-tune --data "$(DATA)" --output "$(OUT)" --config-file "$(CONFIG)" \
		$(if $(ITERATIONS),--iterations $(ITERATIONS)) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(OPTS_QUOTED)

# Two processes with one thread each: with more threads, networks as small as the tests' only wait for each other.
test: setup
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not gpu" -n $(TEST_PROCESSES) --dist loadfile

test-slow: setup
	@$(PY) -m pytest -m slow

soak: setup
	@PYTHONPATH=tools:tests/helpers:. OMP_NUM_THREADS=1 $(PY) -W ignore -m soak $(SOAK)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache

docs: setup
	@$(PY) -c 'import material, mkdocstrings_handlers.python' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "open site/index.html"
