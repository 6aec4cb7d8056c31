# make run [MEDIA=FOLDER]: set everything up, index the folder or else the sample library, serve the search page.
# make test: set everything up, run the tests, but for those that are slow or need other people's programs.
# make test-all: those too, half an hour more.
# make gpu-check [PYTHON=python3]: what this machine's GPU gives, in six minutes at most; installs nothing.
# make release: checks CHANGELOG.md, then wheels of tercet and of its client in dist/, and an image there.
# make wheels: the wheels alone. make image [TARGET=gpu] [BASE=python:3.11-slim-bookworm]: the image alone.
# make mutate [MODULE=filters]: put small errors into the core and see whether its tests notice; docs/mutation.md.
PYTHON ?= python3.11
BIN := .venv/bin
export TERCET_HOST ?= 127.0.0.1
export TERCET_PORT ?= 8000
export TERCET_DATA ?= data
export TERCET_BUNDLE ?= bundles/default
JOBS ?= 2
# MEDIA=FOLDER is indexed into a collection of its own, named after the folder and told from others by its path.
MEDIA ?=
ifdef MEDIA
LIBRARY := $(MEDIA)
COLLECTION := $(shell basename "$(MEDIA)" | tr A-Z a-z | tr -cs a-z0-9 - | sed 's/^-*//' | cut -c1-50)$(shell \
  realpath -m "$(MEDIA)" | sha256sum | cut -c1-4)
else
LIBRARY := sample/manifest.jsonl
COLLECTION := default
endif

.PHONY: run setup test test-all gpu-check mutate check lint types docs train ablation demo sources release release-check wheels image clean

run: setup
	$(BIN)/python -m index build --reembed --collection $(COLLECTION) "$(LIBRARY)" || test -e "$(LIBRARY)"
	@echo "The search page: http://$(TERCET_HOST):$(TERCET_PORT)/?collection=$(COLLECTION)"
	$(BIN)/python -m service

setup: .venv/.serve

.venv/.serve: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cpu]"
	touch $@

.venv/.dev: .venv/.serve
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,train,dev]"
	touch $@

.venv/.foreign: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,train,dev,foreign]"
	touch $@

# Clients that do not fit beside our own packages: an environment of their own.
build/foreign/.installed: tests/foreign/requirements.txt
	test -x build/foreign/bin/python || $(PYTHON) -m venv build/foreign
	build/foreign/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/.mutation: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,train,dev,mutation]"
	touch $@

gpu-check:
	$(PYTHON) -m bench.gpu_check

PYTEST := $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile
test: .venv/.dev
	$(PYTEST) -m "not slow and not foreign"

test-all: test .venv/.foreign build/foreign/.installed
	$(PYTEST) -m "slow or foreign" tests

# Goes on if stopped.
MODULE ?=
mutate: .venv/.mutation
	$(BIN)/python tests/mutation.py $(MODULE)

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

check: lint types test

# The documentation as a site, in build/site. SERVE=1 serves it on http://127.0.0.1:8010 while it is written.
docs: .venv/.docs
	$(BIN)/python -m mkdocs $(if $(SERVE),serve --dev-addr 127.0.0.1:8010,build)

.venv/.docs: .venv/.serve
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,mcp,docs]"
	touch $@

# What the default encoder's recipe needs beside the world: ESC-10 and the spoken digits, and words of sounds.
SOUNDS ?= ../shared/data/sounds
TEXTS ?= ../shared/data/text
sources: .venv/.dev
	for set in esc10 digits; do for part in train test; do \
	  $(BIN)/python -m model prepare $$set $(SOUNDS) --part $$part --out runs/sources/$$set-$$part.jsonl || exit 1; \
	done; done
	$(BIN)/python -m model prepare wording $(TEXTS) --out runs/sources/wording.jsonl
	$(BIN)/python -m model prepare words $$($(BIN)/python -c "from model.network.language import published; print(published())") \
	  --out runs/sources/words.jsonl

# Trains the `tiny` preset on the world; see docs/experiments.md for how bundles/default was made.
train: .venv/.dev
	$(BIN)/python -m model train --config tiny --out runs/tiny --resume
	$(BIN)/python -m export checkpoint runs/tiny --out runs/tiny/bundle

# Which terms of the objective earn their compute: seven arms, three seeds; tables and a plot. Goes on if stopped.
ablation: .venv/.dev
	$(BIN)/python -m model ablation --out runs/ablation

# Under half an hour from nothing to a search page with an encoder of one's own, and a report of what it has learned.
demo: .venv/.dev
	$(BIN)/python -m model train --config demo --out runs/demo --resume
	$(BIN)/python -m export checkpoint runs/demo --out runs/demo/bundle
	$(BIN)/python -m export verify runs/demo/bundle
	$(BIN)/python -m model evaluate --checkpoint runs/demo world:test:100 --before --report runs/demo/report
	$(BIN)/python -m model sample --out runs/demo/sample
	$(BIN)/python -m index build --bundle runs/demo/bundle --data runs/demo/data runs/demo/sample/manifest.jsonl
	$(BIN)/python -m index search --bundle runs/demo/bundle --data runs/demo/data --text "wooden rumbling" --target audio
	@echo "What it finds, and what it does not: runs/demo/report/index.html. Its search page comes up now; ^C stops."
	$(BIN)/python -m service --bundle runs/demo/bundle --data runs/demo/data

# The heading of a version in CHANGELOG.md is "## [1.2.3] - 2027-01-31".
VERSION = $(call version,pyproject.toml)
version = $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(1))
release-check:
	@grep -qF '## [$(VERSION)]' CHANGELOG.md || { echo 'CHANGELOG.md has no heading ## [$(VERSION)]' >&2; exit 1; }
	@test '$(VERSION)' = '$(call version,client/pyproject.toml)' || \
	  { echo 'client/pyproject.toml has another version than $(VERSION)' >&2; exit 1; }

# build/lib is what an earlier build has left: setuptools would pack it again.
wheels: setup
	rm -rf build/lib client/build dist/*.whl
	$(BIN)/python -m pip wheel --no-deps --disable-pip-version-check --wheel-dir dist . ./client

# By Docker where its daemon answers, else by buildah, which needs none. As an archive that both load: `docker load -i FILE`.
TARGET ?= cpu
BASE ?=
NAME = tercet:$(VERSION)$(if $(filter gpu,$(TARGET)),-gpu)
ARCHIVE = dist/$(subst :,-,$(NAME))-image.tar
IMAGE_FLAGS = --target $(TARGET) $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(NAME)
image:
	mkdir -p dist
	rm -f $(ARCHIVE)
	if docker info > /dev/null 2>&1; then \
	  docker build $(IMAGE_FLAGS) . && docker save --output $(ARCHIVE) $(NAME); \
	elif command -v buildah > /dev/null; then \
	  buildah build $(IMAGE_FLAGS) . && buildah push $(NAME) docker-archive:$(ARCHIVE):$(NAME); \
	else echo 'No image: there is neither a Docker daemon nor buildah. Install one, then: make image' >&2; exit 1; fi

release: release-check wheels image
	ls -l dist

clean:
	rm -rf .venv build dist client/build client/*.egg-info *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
