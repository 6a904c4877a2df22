# Everything from nothing: each target brings what it needs (Debian packages, .venv, native build, root file systems).
# docs/testing.md says how the pieces fit.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := $(CURDIR)/.venv
PYTHON := $(VENV)/bin/python
STAMP := build/stamp
export PATH := $(VENV)/bin:$(PATH)
# Package managers read these; nothing here wants a page of notices.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# --- What the installed package is made of. The list itself is a prerequisite, so that a removed file counts too. ---
SOURCES := $(shell find oci runtime shim -type f \( -name '*.py' -o -name '*.pyi' -o -name '*.json' -o -name '*.[chS]' \
	-o -name '*.ld' -o -name 'meson.build' -o -name '*.in' -o -name 'py.typed' \) -not -path '*/.*' | LC_ALL=C sort)
BUILD_FILES := pyproject.toml meson.build meson.options hack/package_files.py hack/gen_host_filter.py \
	hack/gen_shim_offsets.py runtime/pysandbox.in

.PHONY: build test integration demo bench rootfs lint format lock clean dev FORCE

build: $(STAMP)/install

$(STAMP)/sources: FORCE
	@mkdir -p $(@D)
	@echo '$(SOURCES)' | cmp -s - $@ || echo '$(SOURCES)' >$@

$(STAMP)/system-%: hack/system-packages
	@mkdir -p $(@D)
	@hack/system-packages $*
	@touch $@

$(STAMP)/venv: hack/requirements.lock | $(STAMP)/system-build
	@mkdir -p $(@D)
	@echo 'making .venv'
	@test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --use-pep517 --requirement hack/requirements.lock
	@touch $@

$(STAMP)/install: $(STAMP)/venv $(STAMP)/sources $(SOURCES) $(BUILD_FILES)
	@echo 'building pysandbox'
	@$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
		--config-settings=build-dir=$(CURDIR)/build/meson . \
		|| { tail -n 40 build/meson/meson-logs/meson-log.txt 2>/dev/null; exit 1; }
	@test -x $(VENV)/bin/pysandbox
	@touch $@

# The source tree as the package `pysandbox`, for tools that read sources (mypy, an editor): PYTHONPATH=build/dev
dev: build/dev/pysandbox/oci build/dev/pysandbox/runtime
build/dev/pysandbox/%:
	@mkdir -p $(@D)
	@ln -sfn ../../../$* $@

# --- Root file systems --------------------------------------------------------------------------------------------
rootfs: $(STAMP)/venv | $(STAMP)/system-test
	@$(PYTHON) hack/rootfs.py busybox debian

# --- Checks -------------------------------------------------------------------------------------------------------
# Where /dev/kvm is missing, tests/conftest.py sends the tests marked `kvm` to an emulated machine (hack/svm).
test: build rootfs
	@test -e /dev/kvm || hack/system-packages svm
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

# The suites that take minutes, and all KVM tests once more in the emulated machine.
integration: build rootfs | $(STAMP)/system-svm
	@hack/system-packages engines || echo 'integration: some engines cannot be installed; their suites are skipped'
	@if ls integration/test_*.py >/dev/null 2>&1; then $(PYTHON) -m pytest integration $(PYTEST_ARGS); fi
	@$(PYTHON) -m pytest --svm -m kvm tests $(PYTEST_ARGS)

lint: $(STAMP)/install dev
	@hack/lint

format: $(STAMP)/venv
	@ruff check --fix --quiet .
	@find runtime shim hack tests \( -name '*.c' -o -name '*.h' \) -print0 | xargs -0r clang-format -i

bench: build rootfs
	@hack/system-packages bench || echo 'bench: some peers cannot be installed; those present are measured'
	@$(PYTHON) hack/bench/run.py $(BENCH_ARGS)

demo: build
	@hack/demo

# --- Upkeep -------------------------------------------------------------------------------------------------------
# New pins from pyproject.toml, made in a fresh environment.
lock: | $(STAMP)/system-build
	@hack/lock

clean:
	rm -rf build .venv
