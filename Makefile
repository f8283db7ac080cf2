# SPDX-License-Identifier: Apache-2.0
#
# Every command of this project. `make help` lists them.

SHELL := /bin/bash -eu -o pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The engine looks for the monitor, the kernel and the guest's root beside itself: this is that place.
STAGE := target/walnut
CARGO ?= cargo
# Where cargo puts static binaries (.cargo/config.toml names the target).
BUILT := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu
IMAGES := target/test-images
EMULATED_HOST := $(BUILT)/debug/emulated-host
# make test T=run_exit: only the integration tests whose name holds this.
T ?=
B ?=

say = @printf '\033[1m%s\033[0m\n' '$(1)' >&2

.PHONY: help deps build programs guest-image kernel guest-root test-tools test-images software-image run shell \
	check fmt-check clippy repo-check test unit-tests host-tests integration-tests bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that are missing (or say which, without root)
	@.ci/deps

build: programs guest-image ## Build everything into target/walnut

programs: deps
	@$(CARGO) build --release --locked -p walnut -p walnut-vmm -p walnut-agent
	@mkdir -p $(STAGE)
	@for program in walnut walnut-vmm; do .ci/stage $(BUILT)/release/$$program $(STAGE)/$$program; done

guest-image: kernel guest-root ## Build the guest's kernel and root (the kernel once, then from the cache)

kernel: deps
	@mkdir -p $(STAGE)
	@kernel=$$(guest-image/build-kernel); .ci/stage "$$kernel" $(STAGE)/vmlinux; \
		guest-image/prune-kernels "$$kernel"

# The agent is built by `programs`, so that two cargos never wait for each other.
guest-root: programs
	@guest-image/build-root $(BUILT)/release/walnut-agent $(STAGE)/guest.erofs.new
	@.ci/stage $(STAGE)/guest.erofs.new $(STAGE)/guest.erofs
	@rm -f $(STAGE)/guest.erofs.new

# After `programs`, for the same reason.
test-tools: programs
	@$(CARGO) build --locked -p walnut-tests --bins

test-images: test-tools
	@$(BUILT)/debug/test-images $(IMAGES)

software-image: programs ## A Debian image with the software that the tests run, if there is one (minutes)
	@mkdir -p $(IMAGES)
	@tests/build-debian $(IMAGES)/debian.tar
	@[ -e $(IMAGES)/debian-store ] || { rm -rf $(IMAGES)/debian-store.new; \
		$(STAGE)/walnut --root $(IMAGES)/debian-store.new import $(IMAGES)/debian.tar debian:software; \
		mv $(IMAGES)/debian-store.new $(IMAGES)/debian-store; }

run: build test-images ## Run a busybox container in a VM, on /dev/kvm or in the emulated host
	@$(EMULATED_HOST) auto --timeout-s 300 -- $(STAGE)/walnut run --rm oci-archive:$(IMAGES)/busybox.tar \
		sh -c 'echo "hello from a container in a VM of its own: $$(uname -sr), $$(nproc) CPU, $$(free -m | sed -n "2s/[^0-9]*\([0-9]*\).*/\1/p") MiB"'

shell: build test-images ## A shell where walnut runs: here, or in the emulated host
	@$(EMULATED_HOST) shell

check: fmt-check clippy repo-check ## Formatting, lints, house rules

fmt-check: deps
	@$(CARGO) fmt --all --check

clippy: deps
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

repo-check:
	@.ci/check-repo

# One after the other: they share two cores and have deadlines.
test: build test-images ## All tests: unit tests here, integration tests where KVM is (T=name picks some)
	@$(MAKE) unit-tests
	@$(MAKE) host-tests
	@$(MAKE) integration-tests

unit-tests: deps
	$(call say,unit tests)
	@$(CARGO) test -q --locked --workspace --exclude walnut-tests
	@$(CARGO) test -q --locked -p walnut-tests --lib --bin integration

host-tests: test-tools test-images
	$(call say,tests of the emulated host)
	@$(CARGO) test -q --locked -p walnut-tests --test emulated_host --test outside -- --test-threads=1

integration-tests: build test-images
	$(call say,integration tests)
	@$(BUILT)/debug/integration '$(T)'

# BENCH_PEERS="NAME=COMMAND; …" adds commands to the row of starts.
# make bench B='--rows start,exits --runs 20': less than everything, or more of it.
bench: build test-tools ## Measure walnut beside what is installed; JSON and a table in target/bench
	@$(CARGO) build --release --locked -p walnut-tests --bin bench --bin bench-init
	@mkdir -p target/bench
	@$(BUILT)/release/bench prepare --images $(IMAGES)/bench
	@tests/build-initramfs $(BUILT)/release/bench-init $(IMAGES)/bench/init.cpio
	@$(EMULATED_HOST) auto --timeout-s 5400 --output target/bench -- \
		$(BUILT)/release/bench --images $(IMAGES)/bench --out $(CURDIR)/target/bench $(B)

clean: ## Remove target/ (the cache in ~/.cache/walnut stays)
	@rm -rf target
