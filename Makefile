# `make help` lists the targets. The newest of Python 3.11, 3.12 and 3.13 that works is chosen;
# PYTHON= names another, and VENV= another folder for its environment.
PYTHON ?=
DATASET ?= sample
OUT ?= out
THRESHOLD ?= 0.9
TOP_K ?= 10
WORKERS ?= 1
SECONDS ?= 600
FAULTS_SEED ?= 20261
FAULTS_MOMENTS ?= 20
TESTS ?= @tests/quick.txt

VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := captioner_core beam_jobs captioner_cli captioner_airflow dags tests bench fuzz tools examples setup.py
# Airflow as its users have it: without TensorFlow and Beam, which the jobs' interpreter has
AIRFLOW_VENV ?= .venv-airflow
AIRFLOW_BIN := $(AIRFLOW_VENV)/bin

.PHONY: help run-local pretrained airflow test test-quick test-faults test-airflow test-browser test-cluster coverage lint typecheck \
	docs bench fuzz bench-photographs bench-encoders lock check-lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON= names the Python of a new environment, 3.11, 3.12 or 3.13; VENV= and AIRFLOW_VENV= name its folder"

# Two installations into one environment at a time would disturb each other.
.NOTPARALLEL:

ifneq ($(words $(VENV) $(AIRFLOW_VENV)),2)
$(error VENV and AIRFLOW_VENV: the path of an environment must not be empty or contain spaces; the checkout's may)
endif

quoted = '$(subst ','\'',$(1))'
install = @sh tools/install.sh $(1) $(call quoted,$(PYTHON))
# An environment is not used if its Python is gone or is another version than PYTHON, or if the
# folder was moved: the rules below then make it anew, whatever its stamps say.
is_usable = $(shell sh tools/install.sh --check $(1) $(call quoted,$(PYTHON)) && echo yes)
ifneq ($(wildcard $(VENV)/*.stamp),)
ifneq ($(call is_usable,$(VENV)),yes)
.PHONY: $(VENV)/run.stamp $(VENV)/test.stamp $(VENV)/dev.stamp
endif
endif
ifneq ($(wildcard $(AIRFLOW_VENV)/*.stamp),)
ifneq ($(call is_usable,$(AIRFLOW_VENV)),yes)
.PHONY: $(AIRFLOW_VENV)/airflow.stamp
endif
endif

# A stamp says what is installed, so that a second call installs nothing; it is older than
# the lock file and setup.py once these change.
$(VENV)/run.stamp: requirements.lock setup.py
	$(call install,$(VENV)) --editable .
	@touch $@

$(VENV)/test.stamp: requirements.lock setup.py
	$(call install,$(VENV)) --editable '.[test]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/dev.stamp: requirements.lock setup.py dags/requirements.txt
	$(call install,$(VENV)) --editable '.[dev,airflow]'
	@touch $@ $(VENV)/test.stamp $(VENV)/run.stamp

$(AIRFLOW_VENV)/airflow.stamp: requirements.lock setup.py dags/requirements.txt
	$(call install,$(AIRFLOW_VENV)) --requirement dags/requirements.txt
	$(call install,$(AIRFLOW_VENV)) --no-deps --editable .
	@touch $@

# Each variable reaches the program as one argument, whatever it holds.
export DATASET FLICKR8K_DIR COCO_DIR JUDGEMENTS_DIR LIMIT IMAGES OUT THRESHOLD TOP_K WORKERS EPOCHS MAX_FAILURES PORT AIRFLOW_DB AIRFLOW_DIR INBOX_FOLDERS FAULTS_SEED FAULTS_MOMENTS CLUSTER_IMAGES AIRFLOW_VENV TESTS

run-local: $(VENV)/run.stamp  ## images to match tables and report: DATASET= FLICKR8K_DIR= LIMIT= IMAGES= OUT= THRESHOLD= TOP_K= EPOCHS= WORKERS=
	@$(BIN)/captioner run-local --dataset "$$DATASET" --out "$$OUT" --threshold="$$THRESHOLD" --top-k="$$TOP_K" --workers="$$WORKERS" \
		$${FLICKR8K_DIR:+--flickr8k-dir "$$FLICKR8K_DIR"} $${LIMIT:+--limit="$$LIMIT"} $${IMAGES:+--images "$$IMAGES"} \
		$${EPOCHS:+--epochs="$$EPOCHS"} $${MAX_FAILURES:+--max-failures="$$MAX_FAILURES"}

# What captioner_core/pretrained_encoder and then captioner_core/pretrained were made by; three seeds, so that
# both stay below 40 MB. COCO_DIR holds what tools/split_coco.py reads, JUDGEMENTS_DIR what people said of pairs.
PRETRAINED_TRAIN := --epochs 12 --reinforce-epochs 16 --reinforce-rate 2e-4 --dropout 0.5 --min-word-count 5 --beam-width 5
PRETRAINED_ENCODER := --epochs 8 --batch-size 512 --min-word-count 5 --teacher minilm
COCO_LICENCE := COCO captions are CC BY 4.0; its photographs belong to their owners on Flickr. Cite Lin et al. (2014), Microsoft COCO, ECCV.
LANGUAGE_LICENCE := COCO captions are CC BY 4.0. Flickr30k captions are for non-commercial research and teaching. Cite Lin et al. (2014), Microsoft COCO, ECCV, and Young et al. (2014), From image descriptions to visual denotations, TACL 2.
pretrained: $(VENV)/dev.stamp  ## train the models that come with the package anew: FLICKR8K_DIR= COCO_DIR= JUDGEMENTS_DIR= OUT=
	@$(BIN)/captioner assets --extra minilm
	@$(BIN)/captioner dataset flickr8k $${FLICKR8K_DIR:+--source "$$FLICKR8K_DIR"} --output "$$OUT/datasets/flickr8k"
	@$(BIN)/python tools/split_coco.py "$$COCO_DIR" "$$OUT/coco"
	@$(BIN)/captioner dataset csv --csv "$$OUT/coco/captions.csv" --images "$$OUT/coco/images" --licence "$(COCO_LICENCE)" \
		--output "$$OUT/datasets/coco"
	@$(BIN)/captioner dataset csv --csv "$$OUT/coco/language.csv" --licence "$(LANGUAGE_LICENCE)" --output "$$OUT/datasets/language"
	@set -e; for name in flickr8k coco; do for suffix in "" -mirrored; do \
		$(BIN)/captioner extract --images "$$OUT/datasets/$$name/images" --output "$$OUT" --run-id "$$name$$suffix" \
		--backbone "xception$$suffix"; done; done
	@$(BIN)/captioner train-encoder --dataset "$$OUT/datasets/flickr8k" --dataset "$$OUT/datasets/coco" \
		--features "$$OUT/runs/flickr8k/features" --features "$$OUT/runs/coco/features" \
		--mirrored "$$OUT/runs/flickr8k-mirrored/features" --mirrored "$$OUT/runs/coco-mirrored/features" \
		--language "$$OUT/datasets/language" --judgements "$$JUDGEMENTS_DIR" $(PRETRAINED_ENCODER) --output "$$OUT/pretrained/encoder"
	@set -e; for seed in 0 1 2; do $(BIN)/captioner train --dataset "$$OUT/datasets/flickr8k" --seed $$seed \
		--features "$$OUT/runs/flickr8k/features" --mirrored "$$OUT/runs/flickr8k-mirrored/features" \
		--output "$$OUT/pretrained/seed$$seed" $(PRETRAINED_TRAIN); done
	@set -e; export CAPTIONER_ENCODER="$$OUT/pretrained/encoder"; \
		$(BIN)/captioner export --model "$$OUT/pretrained/seed0" --model "$$OUT/pretrained/seed1" --model "$$OUT/pretrained/seed2" \
		--beam-width 10 --joint-weight 4 --output "$$OUT/pretrained/model"; \
		for command in confidence evaluate; do $(BIN)/captioner $$command --model "$$OUT/pretrained/model" \
		--dataset "$$OUT/datasets/flickr8k" --features "$$OUT/runs/flickr8k/features" \
		--dataset "$$OUT/datasets/coco" --features "$$OUT/runs/coco/features"; done

airflow: $(VENV)/run.stamp $(AIRFLOW_VENV)/airflow.stamp  ## Airflow with its UI and the DAGs, on this machine: PORT= AIRFLOW_DB= AIRFLOW_DIR=
	@$(BIN)/captioner assets
	@exec $(AIRFLOW_BIN)/python -m captioner_airflow.local --python $(BIN)/python --home "$${AIRFLOW_DIR:-.airflow}" \
		$${PORT:+--port="$$PORT"}

test: $(VENV)/dev.stamp  ## the whole test suite that needs no cluster and no browser
	@$(BIN)/captioner assets --extra minilm
	@$(BIN)/python -m pytest -m "not cluster and not airflow and not browser and not faults" -n 2 --dist loadfile --no-loadscope-reorder

# tests/quick.txt lists tests that need neither assets nor the network.
test-quick: $(VENV)/test.stamp  ## the tests that answer within a minute: they need no training, no assets and no network
	@$(BIN)/python -m pytest @tests/quick.txt -m "not slow and not assets" -n 2 --dist loadfile

coverage: $(VENV)/test.stamp  ## test-quick with a list of lines that no test runs, as HTML in out/coverage: TESTS=
	@$(BIN)/python -m pytest "$$TESTS" -m "not slow and not assets" -n 2 --dist loadfile --cov --cov-report=term --cov-report=html

test-cluster: $(VENV)/dev.stamp  ## tests of processes and hosts that work together
	@$(BIN)/python -m pytest -m cluster

test-faults: $(VENV)/dev.stamp  ## runs killed or interrupted at any moment, full disks, lost files; FAULTS_SEED= FAULTS_MOMENTS=
	@$(BIN)/captioner assets
	@echo "test-faults: FAULTS_SEED=$$FAULTS_SEED chooses at which writes runs are killed and when they are interrupted"
	@$(BIN)/python -m pytest -m faults -n 2 --dist loadfile

test-airflow: $(VENV)/dev.stamp $(AIRFLOW_VENV)/airflow.stamp  ## tests of the DAGs in a real Airflow: kill -9, training, the inbox
	@$(BIN)/captioner assets
	@$(BIN)/python -m pytest -m airflow

test-browser: $(VENV)/dev.stamp $(AIRFLOW_VENV)/airflow.stamp  ## tests of Airflow's UI in headless Chromium; screenshots in out/screenshots
	@$(BIN)/captioner assets
	@$(BIN)/python -m playwright install chromium > /dev/null 2>&1 || echo "test-browser: Playwright's browser can't be downloaded; looking for the system's"
	@$(BIN)/python -m pytest -m browser

$(VENV)/fuzz.stamp: $(VENV)/dev.stamp
	$(call install,$(VENV)) --editable '.[dev,airflow,fuzz]'
	@touch $@

fuzz: export FUZZ_SECONDS := $(SECONDS)  # in bash SECONDS has a meaning of its own
fuzz: $(VENV)/fuzz.stamp  ## coverage-guided fuzzing of images, datasets and models, in turn: SECONDS=
	@$(BIN)/python -m fuzz --seconds "$$FUZZ_SECONDS"

lint: $(VENV)/dev.stamp  ## ruff: rules and format; import-linter: who imports whom; hadolint: the Dockerfiles
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu

typecheck: $(VENV)/dev.stamp  ## mypy, strict
	@$(BIN)/mypy

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(call install,$(VENV)) --editable '.[docs]'
	@touch $@

# The variable spares the reader a notice of the theme about its successor. Warnings end the build, but
# with --quiet mkdocs would not see them.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/docs.stamp  ## the documentation site, in out/docs; fails on a link or a docstring that is wrong
	@$(BIN)/mkdocs build
	@echo "docs: open out/docs/index.html"

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	$(call install,$(VENV)) --editable '.[dev,airflow,bench]'
	@touch $@

bench: $(VENV)/bench.stamp  ## benchmarks, each beside a named peer
	@$(BIN)/captioner assets
	@if [ -z "$$FLICKR8K_DIR" ]; then $(BIN)/python -m bench.extract; $(BIN)/python -m bench.scale; fi
	@$(BIN)/python -m bench.caption
	@$(BIN)/python -m bench.match
	@$(BIN)/python -m bench.train
	@$(BIN)/captioner dataset sample --output "$$OUT/bench/sample"
	@$(BIN)/python -m bench.again --images "$$OUT/bench/sample/images"
	@if [ -n "$$FLICKR8K_DIR" ]; then $(MAKE) --no-print-directory bench-photographs bench-encoders; fi

bench-photographs: $(VENV)/bench.stamp
	@$(BIN)/captioner assets
	@$(BIN)/captioner dataset flickr8k --source "$$FLICKR8K_DIR" --output "$$OUT/datasets/flickr8k"
	@$(BIN)/python -m bench.extract --images "$$OUT/datasets/flickr8k/images"
	@$(BIN)/python -m bench.scale --photographs "$$OUT/datasets/flickr8k/images"
	@$(BIN)/python -m bench.commands --images "$$OUT/datasets/flickr8k/images"
	@$(BIN)/python -m bench.decode --images "$$OUT/datasets/flickr8k/images"
	@$(BIN)/python -m bench.profile --images "$$OUT/datasets/flickr8k/images"
	@$(BIN)/python -m bench.precision --dataset "$$OUT/datasets/flickr8k"

bench-encoders: $(VENV)/dev.stamp
	@$(BIN)/captioner assets --extra minilm
	@$(BIN)/captioner dataset flickr8k --source "$$FLICKR8K_DIR" --output "$$OUT/datasets/flickr8k"
	@$(BIN)/captioner extract --images "$$OUT/datasets/flickr8k/images" --output "$$OUT" --run-id flickr8k
	@$(BIN)/python -m bench.encoders --dataset "$$OUT/datasets/flickr8k" --features "$$OUT/runs/flickr8k/features"
	@$(BIN)/python -m bench.ranking --dataset "$$OUT/datasets/flickr8k" --features "$$OUT/runs/flickr8k/features"
	@$(BIN)/python -m bench.similar --dataset "$$OUT/datasets/flickr8k"

lock: $(VENV)/dev.stamp  ## resolve setup.py's requirements anew into requirements.lock, for all three versions of Python
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate --upgrade setup.py -o requirements.lock
	@$(MAKE) --no-print-directory check-lock

# Nobody should need a compiler: each version of Python finds a wheel of each package.
check-lock:
	@set -e; for version in 3.11 3.12 3.13; do $(BIN)/uv pip compile --quiet --no-deps --only-binary :all: \
		--python-version $$version --python-platform x86_64-manylinux_2_28 - -o /dev/null < requirements.lock; done

clean:  ## remove what the targets made, but no cache
	@for venv in $(VENV) $(AIRFLOW_VENV); do if [ -f $$venv/pyvenv.cfg ]; then rm -rf $$venv; fi; done
	rm -rf .airflow out build dist *.egg-info
