# What can be done with this tree. `make` alone lists it.
#
# Needs Rust, Go and Python with pip. All else is built or downloaded into $(cache), outside the work tree, and not built again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

cache := $(or $(STEPGATE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stepgate)
programs := $(or $(CARGO_TARGET_DIR),target)/debug
versions := $(shell sed -n 's/^HELM=/helm-/p' tests/cluster/versions.env)
helm := $(cache)/$(versions)/helm
deny_version := 0.20.2
deny := $(cache)/cargo-deny-$(deny_version)/bin/cargo-deny
mutants_version := 27.1.0
mutants := $(cache)/cargo-mutants-$(mutants_version)/bin/cargo-mutants
chart := charts/stepgate

# The demo application is linked statically, as small images have it; what it rests on is built as for all others.
static_demo_app := cargo rustc --package demo-app --bin demo-app -- -C target-feature=+crt-static
define build_bins
cargo build --workspace --exclude demo-app --bins
$(static_demo_app)
endef

.PHONY: help
help: ## list what can be done
	@echo "Stepgate: progressive delivery over the Gateway API."; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "Cache of what is built or downloaded: $(cache)"

##
.PHONY: build
# Programs and tests in one command: tests ask for more features of what all rest on, and apart each of it would be built twice.
build: ## build everything (one profile, also for tests, demo and chart)
	cargo build --workspace --exclude demo-app --bins --tests
	$(static_demo_app)

.PHONY: fmt
fmt: ## format the sources
	cargo fmt --all

.PHONY: lint
lint: $(deny) ## check format, lints (warnings are errors), licences, bans and sources
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --test gateways --test scale -- -D warnings
	$(deny) --locked check licenses bans sources

# Into the cache and not into ~/.cargo/bin: the version is this project's business. Not optimised: that takes longer than all its checks.
$(deny):
	@echo "lint: cargo-deny $(deny_version): not in the cache, about 2 minutes on two cores, once ..."
	cargo install cargo-deny --version $(deny_version) --locked --quiet --debug --root $(cache)/cargo-deny-$(deny_version)

.PHONY: gen
gen: ## write the generated files: the CRD and the chart's copy of it
	cargo run --quiet -p stepgate-crds --bin generate-crds > crds/rollouts.yaml.new
	mv crds/rollouts.yaml.new crds/rollouts.yaml
	cp crds/rollouts.yaml $(chart)/crds/rollouts.yaml

.PHONY: check-generated
check-generated: build ## fail if a generated file is not what `make gen` writes
	@new=$$(mktemp); trap 'rm -f "$$new"' EXIT; \
	$(programs)/generate-crds > "$$new"; \
	for file in crds/rollouts.yaml $(chart)/crds/rollouts.yaml; do \
	  diff -u "$$file" "$$new" || { echo "$$file is out of date: run make gen, and commit what it writes" >&2; exit 1; }; \
	done; echo "generated files are fresh"

##
.PHONY: cluster-programs
cluster-programs: ## build what the local cluster runs (15 minutes the first time)
	tests/cluster/build.sh --cluster

.PHONY: gateway-programs
gateway-programs: ## build the other gateways too, which only their tests start (15 minutes more)
	tests/cluster/build.sh

.PHONY: test
# Most tests wait for the cluster most of the time: more at once than there are cores.
test: cluster-programs build check-chart ## run all tests but `make gateways`: unit, wire, real API server, end to end (needs root or user namespaces)
	RUST_TEST_THREADS=6 $(programs)/local-cluster run -- cargo test --workspace --offline --no-fail-fast

.PHONY: test-quick
test-quick: ## run the tests of the libraries and the plugin, which need no cluster
	cargo test -p stepgate-crds -p stepgate-core -p stepgate -p kubectl-stepgate --lib --bins --tests

.PHONY: check-chart
check-chart: cluster-programs ## lint the Helm chart and render it
	$(helm) lint --quiet --strict $(chart) --set metricsSources.default=http://prometheus:9090
	$(helm) template stepgate $(chart) --namespace stepgate-system --set metrics.service.enabled=true > /dev/null

##
.PHONY: demo
demo: cluster-programs ## a good and a bad version on a real cluster, live, in 3 minutes; KEEP=1 leaves it running
	@[ -x $(programs)/demo ] || echo "demo: building Stepgate, some minutes on two cores the first time ..."
	$(build_bins)
	@$(programs)/demo run $(if $(KEEP),--keep)

.PHONY: demo-stop
demo-stop: ## end a demo that KEEP=1 left running
	@[ -x $(programs)/demo ] || { echo "no demo has been built, so none runs"; exit 0; }; $(programs)/demo stop

.PHONY: bench
bench: cluster-programs build ## print figures: sample to decision to weight 0, requests of a rollout and at rest, cost of the hold (8 minutes)
	RUST_TEST_THREADS=1 $(programs)/local-cluster run -- cargo test --offline -p stepgate-tests --test rollout --test budget --test policy_cost -- --nocapture

.PHONY: gateways
gateways: gateway-programs build ## a good and a bad version behind each gateway, and the table of docs/sources.md (5 minutes)
	RUST_TEST_THREADS=4 $(programs)/local-cluster run -- cargo test --offline -p stepgate-tests --test gateways -- --nocapture

.PHONY: scale
# The operator as the README builds it, beside the other one: what it rests on is built once more for that.
scale: cluster-programs build ## analyse 1,000 Rollouts at once: queries, CPU, memory and requests of the operator (30 minutes); ROLLOUTS=N for fewer
	cargo build --release -p stepgate --bin stepgate
	STEPGATE_OPTIMISED="$(abspath $(dir $(programs))release/stepgate)" $(if $(ROLLOUTS),STEPGATE_SCALE=$(ROLLOUTS)) \
	  $(programs)/local-cluster run -- cargo test --offline -p stepgate-tests --test scale -- --nocapture

.PHONY: calibrate
calibrate: ## measure the verdict on simulated rollouts beside thresholds, and put the figures into docs/analysis.md (10 minutes); SEED=S for others
	cargo run --quiet -p stepgate-calibrate --bin calibrate -- --docs docs $(if $(SEED),--seed $(SEED))

.PHONY: faults
faults: cluster-programs build ## run 1,000 fault plans and 200 pairs by chance on a real cluster; PLANS=N or all, SEED=S, PLAN=P for one
	$(programs)/local-cluster run -- $(programs)/faults $(if $(PLAN),--plan $(PLAN),$(if $(filter all,$(PLANS)),,--plans $(or $(PLANS),1000)) --seed $(or $(SEED),1) --random 200)

.PHONY: exhaustive
exhaustive: ## search every interleaving of pairs of faults in the core, to the end (an hour); ONLY=people for those of this name
	STEPGATE_EXHAUSTIVE_STATES=3000000 $(if $(ONLY),STEPGATE_EXHAUSTIVE_ONLY="$(ONLY)") \
	  cargo test -p stepgate-core --test next -- exhaustive::more_goes_wrong --nocapture

.PHONY: fuzz
fuzz: ## fuzz each parser with 1,000,000 inputs and decisions with 20,000 hostile worlds, others each time
	STEPGATE_FUZZ_CASES=$${STEPGATE_FUZZ_CASES:-1000000} cargo test --offline -p stepgate --test fuzz --test promql
	STEPGATE_FUZZ_CASES=$${HOSTILE_CASES:-20000} cargo test --offline -p stepgate --test hostile

.PHONY: mutants
# The slow tests are few and long: a change that survives the others is tried on them by ALL_TESTS=1. What is no verdict needs but
# TESTS="--test next".
mutants: $(mutants) ## change the core in small ways, one at a time, to see that a test fails (hours); FILE=operator/core/src/side.rs or SHARD=1/8
	@echo "mutants: each change is built and tested, 2,840 in all; the result is in target/mutants/mutants.out"
	@mkdir -p target/mutants
	CARGO_TARGET_DIR="$(abspath target/mutants/build)" CARGO_PROFILE_DEV_DEBUG=0 \
	  $(mutants) mutants --package stepgate-core --output target/mutants --jobs 1 -C=--config=profile.dev.package.stepgate-core.opt-level=0 \
	  $(if $(FILE),--file $(FILE)) $(if $(SHARD),--shard $(SHARD)) \
	  -- $(or $(TESTS),--lib --test next --test vectors) -- --skip exhaustive --skip invariants $(if $(ALL_TESTS),,--skip behaviour --skip crashes)

# Into the cache, as cargo-deny is.
$(mutants):
	@echo "mutants: cargo-mutants $(mutants_version): not in the cache, about 3 minutes on two cores, once ..."
	cargo install cargo-mutants --version $(mutants_version) --locked --quiet --root $(cache)/cargo-mutants-$(mutants_version)

.PHONY: cluster
cluster: cluster-programs build ## a shell with the local cluster's kubeconfig; the cluster ends with the shell
	PATH="$(abspath $(programs)):$$PATH" $(programs)/local-cluster run -- $${SHELL:-/bin/bash}
