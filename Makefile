# trimask: every target builds what it needs. `make` alone lists them.
#   VENV=path     another virtual environment (default .venv)
#   PYTHON=path   use this Python as it is, install nothing
#   EXP=name      an experiment (make list)        DATA=folder  where the data sets lie (default ./data)
#   ARGS="..."    further options, e.g. ARGS="--trainer.max_epochs=3 --model.network.backbone=resnet18"

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
REFERENCES ?= .venv-references
BASE_PYTHON ?= python3
EXP ?=
ARGS ?=
export NO_ALBUMENTATIONS_UPDATE := 1
ifdef DATA
export TRIMASK_DATA := $(abspath $(DATA))
endif

ifdef PYTHON
RUN := $(PYTHON)
READY :=
ENGINE :=
else
RUN := $(VENV)/bin/python
READY := $(VENV)/.stamp
ENGINE := $(VENV)/.sweeps
endif
TRIMASK := $(RUN) -m trimask
need-sweep = $(if $(SWEEP),,$(error SWEEP= is missing: a file of configs/sweeps without .yaml, e.g. make $@ SWEEP=smoke))
need-exp = $(if $(EXP),,$(error EXP= is missing, e.g. make $@ EXP=quickstart; `make list` shows all experiments))

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# The environment is built once, and again when the requirements change.
$(VENV)/.stamp: requirements.txt setup.cfg pyproject.toml
	@echo "== building $(VENV): pinned packages, about 5 GB, a few minutes"
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "trimask needs Python 3.11 or newer; name one with BASE_PYTHON=..."; exit 2; }
	@test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "== $(VENV) is ready"

.PHONY: install
install: $(READY) ## build the environment only

# Other libraries' networks, which do not fit into the product's environment. They see its packages behind their own.
$(REFERENCES)/.stamp: requirements-references.txt $(READY)
	@echo "== building $(REFERENCES): the networks that ours are compared with, about a minute"
	@rm -rf $(REFERENCES) && $(RUN) -m venv --without-pip $(REFERENCES)
	@$(RUN) -m pip --python $(REFERENCES)/bin/python install --quiet --disable-pip-version-check --no-deps \
		-r requirements-references.txt || { echo "The references could not be installed: they come from PyPI alone," \
		"with the versions of requirements-references.txt. Without them \`$(TRIMASK).parity\` compares the rest."; exit 2; }
	@$(RUN) -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$($(REFERENCES)/bin/python -c 'import site; print(site.getsitepackages()[0])')/behind.pth
	@$(REFERENCES)/bin/python -c 'from trimask.parity.references import require_mmdet, require_mmseg; require_mmseg(); require_mmdet()' || \
		{ echo "The references were installed and cannot be imported; the message above says why."; exit 2; }
	@touch $@
	@echo "== $(REFERENCES) is ready"

.PHONY: references
references: $(REFERENCES)/.stamp ## build the environment of the networks that ours are compared with

.PHONY: parity
parity: $(REFERENCES)/.stamp ## every network against its reference, same weights, same logits: [ARGS="--only fcn"]
	@$(REFERENCES)/bin/python -m trimask.parity $(ARGS)

.PHONY: list
list: $(READY) ## all experiments, with their baselines
	@$(TRIMASK) list

.PHONY: train
train: $(READY) ## train an experiment: EXP=name [RESUME=1 | SEEDS=1,2,3] [DATA=folder] [ARGS="..."]
	$(need-exp)@$(TRIMASK) $(if $(SEEDS),seeds --seeds "$(SEEDS)",fit) --exp $(EXP) $(if $(RESUME),--ckpt_path last) $(ARGS)

.PHONY: validate
validate: $(READY) ## measure the best checkpoint of the newest run: EXP=name
	$(need-exp)@$(TRIMASK) validate --exp $(EXP) $(ARGS)

.PHONY: predict
predict: $(READY) ## masks or segments, and overlays: EXP=name PICTURES="files or folders" OUT=folder
	$(need-exp)@$(TRIMASK) predict --run $(EXP) $(PICTURES) --out $(or $(OUT),predictions) $(ARGS)

.PHONY: reproduce
reproduce: $(READY) ## measure by the published protocol, into the ledger: EXP=name [WEIGHTS=file | TRAIN=1]; alone, the table
	@$(TRIMASK) reproduce $(if $(EXP),--exp $(EXP)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(TRAIN),--train) $(ARGS)

# W&B's search engine, for sweeps without a server. It states numpy < 2 and runs on 2, so that pip must not follow it.
$(VENV)/.sweeps: requirements-sweeps.txt $(VENV)/.stamp
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-sweeps.txt
	@touch $@

.PHONY: sweep
sweep: $(READY) $(ENGINE) ## search settings: SWEEP=name (configs/sweeps) [COUNT=trials] [JOBS=at a time] [NEW=1]; again goes on
	$(need-sweep)@$(TRIMASK) sweep $(SWEEP) $(if $(COUNT),--count $(COUNT)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(NEW),--new) $(ARGS)

.PHONY: sweep-check
sweep-check: $(READY) $(ENGINE) ## whether keys, values and metric of sweeps exist, before any training: [SWEEP=name]
	@$(TRIMASK) sweep $(SWEEP) --check $(ARGS)

.PHONY: compare
compare: $(READY) ## two runs on the same pictures: A=run B=run (folders, or experiments: their newest runs)
	$(if $(and $(A),$(B)),,$(error Which runs? A= and B= name folders below runs/, or experiments))@$(TRIMASK) compare $(A) $(B) $(ARGS)

.PHONY: replay
replay: $(READY) ## a step that was not finite once more, and where it begins: STEP=run, or a file of its nonfinite/
	$(if $(STEP),,$(error Which step? STEP= names a run's folder, an experiment, or a file of nonfinite/))@$(TRIMASK) replay $(STEP) $(ARGS)

.PHONY: calibrate
calibrate: $(READY) ## make the scores of a run probabilities, for predict: EXP=name (its newest run)
	$(need-exp)@$(TRIMASK) calibrate $(EXP) $(ARGS)

.PHONY: check-data
check-data: $(READY) ## the dataset doctor: EXP=name, or DATA=folder of one or many data sets
	@$(TRIMASK) doctor $(if $(EXP),--exp $(EXP),--data $(or $(DATA),data)) $(ARGS)

.PHONY: browse
browse: $(READY) ## a page of samples as they are and as trained on: EXP=name or DATA=folder
	@$(TRIMASK) browse $(if $(EXP),--exp $(EXP),--data $(or $(DATA),data)) $(ARGS)

.PHONY: data
data: $(READY) ## fetch a data set into DATA (default ./data): SET=human|camvid|coco|bdd100k|ade20k|voc
	@$(TRIMASK) download $(SET) $(ARGS)

.PHONY: bench
bench: $(READY) ## side by side with peers: WHAT=train|infer|data|metrics|regions [CASE=name]
	@$(RUN) -m trimask.bench $(or $(WHAT),train) $(if $(CASE),--case "$(CASE)") $(ARGS)

.PHONY: test
test: $(READY) $(ENGINE) ## the fast tests, under five minutes
	@$(RUN) -m pytest -q -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: $(READY) $(ENGINE) ## the other tests: training, resuming, command lines, parity at size
	@$(RUN) -m pytest -q -m slow $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff and mypy
	@$(RUN) -m ruff check src tests
	@$(RUN) -m ruff format --check src tests
	@$(RUN) -m mypy

.PHONY: format
format: $(READY) ## let ruff put the code in order
	@$(RUN) -m ruff check --fix src tests
	@$(RUN) -m ruff format src tests

.PHONY: clean
clean: ## remove caches; runs, data and the environment stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
	@find src tests -name __pycache__ -prune -exec rm -rf {} +
