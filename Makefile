# The only door. `make help` lists what is behind it.
#
# Every recipe works on a fresh Linux machine with a Rust toolchain, make and a C compiler; what one
# needs beyond that (docker, perf) it asks for by name.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO  ?= cargo
# Where cargo builds, and where the tools that only developers need are kept.
TARGET := $(or $(CARGO_TARGET_DIR),target)
TOOLS  := $(abspath $(TARGET))/tools
BENCH  := $(TARGET)/release/tercet-bench
# The three-node cluster of docker/, by whichever compose this machine has. The old one reads the seccomp
# profile relative to where it is called, the new one relative to its file: in docker/ both find it.
COMPOSE = cd docker && $$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) \
	-f compose.yaml

# What a recipe can be told: make bench QUICK=1 KEEP=1, make sim SEED=7, make sims N=500.
QUICK ?=
SEED  ?= 1
N     ?= 200
SEEDS ?= 2000
T     ?= 60
SCOPE ?=
STATES ?=
IMAGE ?= tercet:latest
TABLE ?=
# The last version of feature level 2.
OLDER ?= 78570f8
# Where a measurement goes: under the target directory, or with KEEP=1 to a dated folder that can be committed.
KEEP  ?=
REPORTS := $(if $(KEEP),bench-reports/$(shell date -u +%F)-$(shell git rev-parse --short=7 HEAD),$(TARGET)/bench-reports)

.PHONY: help
help: ## List every recipe
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)$$/\1\t\2/' \
		| while IFS=$$'\t' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

# ---- Run and measure ----

.PHONY: bench
bench: release ## Measure everything with three local nodes (QUICK=1: under 40 s; KEEP=1: keep the report)
	$(BENCH) suite $(if $(QUICK),--quick) --out "$(REPORTS)"

.PHONY: run
run: release ## Start three local nodes until Ctrl-C
	$(BENCH) nodes

.PHONY: cost
cost: ## Count the instructions of each operation in the pure core (needs valgrind); fails when one rose by 3 %
	$(CARGO) build --release -p harness --no-default-features --bin tercet-cost
	.ci/cost

.PHONY: micro
micro: ## Time the pieces of wire and of the pure core, each alone (criterion; QUICK=1: coarser, in a minute)
	$(CARGO) bench -p wire -p engine --features wire/archive,engine/simulator --bench wire --bench core \
		-- --noplot $(if $(QUICK),--quick)

.PHONY: flamegraph
flamegraph: ## Draw where the nodes' CPU time goes while a benchmark runs (needs perf)
	.ci/flamegraph "$(TARGET)" "$(REPORTS)/flamegraph.svg"

.PHONY: release
release: ## Build every binary with optimizations
	$(CARGO) build --release --workspace --all-features --bins

# ---- Prove ----

.PHONY: test
test: pure ## Run every test, and prove that the engine's pure part is pure
	$(CARGO) test --workspace --all-features
	$(CARGO) test -p wire

.PHONY: pure
pure: ## Check that wire, the engine's pure part and the client's core build without std: no clock, no I/O
	$(CARGO) check -p wire
	$(CARGO) check -p wire --features archive
	$(CARGO) check -p engine --no-default-features
	$(CARGO) check -p client --no-default-features

.PHONY: pure-proof
pure-proof: ## Plant a clock in each pure module and see `make pure` fail
	.ci/pure-proof

.PHONY: adding
adding: ## Add a kind of request to a copy of the tree, as docs/adding-a-request.md does, and see what follows
	.ci/adding-a-request

.PHONY: tidy
tidy: ## Check what rustfmt and clippy cannot
	$(CARGO) test -p engine --no-default-features --test tidy

.PHONY: chaos
chaos: release ## Real nodes under faults and load, 3 then 5 of them, 14 minutes (SEED=1; KEEP=1; as root)
	$(BENCH) chaos --nodes 3 --minutes 6 --seed $(SEED) --json "$(REPORTS)/chaos/3-nodes.json"
	$(BENCH) chaos --nodes 5 --minutes 6 --seed $(SEED) --json "$(REPORTS)/chaos/5-nodes.json"
	$(BENCH) chaos --nodes 3 --minutes 0 --kills 20 --seed $(SEED) --json "$(REPORTS)/chaos/kills.json"

.PHONY: upgrade
upgrade: ## Roll a live cluster from an older version to this one under load (OLDER=commit)
	.ci/upgrade "$(TARGET)" "$(OLDER)"

.PHONY: sim
sim: ## Replay one seed of the simulator (SEED=1)
	$(CARGO) run --release -p harness --no-default-features --bin tercet-sim -- --seed $(SEED)

.PHONY: sims
sims: ## Run many seeds of the simulator (N=200)
	$(CARGO) run --release -p harness --no-default-features --bin tercet-sim -- --count $(N)

.PHONY: sim-speed
sim-speed: ## How much faster than real time three simulated nodes run, at about 100 calls a second
	$(CARGO) run --release -p harness --no-default-features --bin tercet-sim -- --speed --count 5

.PHONY: model
model: ## Visit every state of consensus in a few small scopes (SCOPE="2 0 1 0 slow" STATES=40000000: that one)
	SCOPE="$(SCOPE)" STATES="$(STATES)" $(CARGO) test --release -p engine --no-default-features --lib \
		no_state_of_a_large -- --ignored --nocapture

.PHONY: model-mutants
model-mutants: ## Plant known bugs in consensus, one by one, and see the model's shortest way to each
	RUSTFLAGS="--cfg tercet_mutants" CARGO_TARGET_DIR=$(TARGET)/mutants \
		$(CARGO) test --release -p engine --no-default-features --lib planted_bugs -- --nocapture

.PHONY: members-mutants
members-mutants: ## Plant known bugs in changes of membership, and see the simulation of consensus catch each
	RUSTFLAGS="--cfg tercet_mutants" CARGO_TARGET_DIR=$(TARGET)/mutants \
		$(CARGO) test --release -p engine --no-default-features --lib planted_changes -- --nocapture

.PHONY: mutants
mutants: ## Plant known bugs in the engine, one by one, and see the simulator catch each (SEEDS=2000; TABLE=docs/mutants.md writes it)
	RUSTFLAGS="--cfg tercet_mutants" CARGO_TARGET_DIR=$(TARGET)/mutants \
		$(CARGO) build --release -p harness --no-default-features --bin tercet-sim
	$(TARGET)/mutants/release/tercet-sim --mutants --count $(SEEDS) $(if $(TABLE),--table $(TABLE))

.PHONY: fuzz
fuzz: ## Feed the readers of frames, messages and journals with bad bytes, T seconds each (T=60)
	.ci/fuzz "$(TOOLS)" "$(T)"

# ---- Keep in order ----

.PHONY: verify
verify: ## Check formatting, lints, tidy, purity, documentation and dependencies; writes nothing
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy -p wire -p engine --no-default-features -- -D warnings
	$(MAKE) tidy
	$(MAKE) pure-proof
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --all-features --no-deps --document-private-items
	$(MAKE) deny

.PHONY: deny
deny: ## Check the licences, bans and sources of dependencies, and advisories where they are at hand
	.ci/deny "$(TOOLS)"

.PHONY: fix
fix: ## Write what can be written: formatting, clippy's own fixes, and what follows from the code (make docs)
	$(CARGO) clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml
	$(MAKE) docs

.PHONY: docs
docs: ## Write what follows from the code: the documents' tables, the Python client's, golden vectors of new messages
	TERCET_WRITE=1 $(CARGO) test --quiet -p wire --features archive --test vectors --test protocol_doc
	TERCET_WRITE=1 $(CARGO) test --quiet -p engine --features edge --test docs

.PHONY: tools
tools: ## Install the developers' tools (cargo-deny, inferno) under the target directory
	$(CARGO) install --locked --debug --root "$(TOOLS)" cargo-deny
	$(CARGO) install --locked --root "$(TOOLS)" inferno

.PHONY: clean
clean: ## Remove what was built and what was measured but not kept
	$(CARGO) clean

# ---- Docker ----

.PHONY: docker
docker: ## Build the image (where none can be pulled: make base-images first)
	docker build -f docker/Dockerfile -t $(IMAGE) .

.PHONY: base-images
base-images: ## Make the image's base images from this machine's own files
	docker/base-images.sh

.PHONY: up
up: ## Start three nodes in containers
	$(COMPOSE) up -d --no-build

.PHONY: down
down: ## Stop the containers; their volumes stay
	$(COMPOSE) down
