# meterd: `make` lists the targets.
SHELL      := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO         ?= go
GOFLAGS_BUILD := -trimpath -ldflags "-X main.version=$(VERSION)"
TOOL       := $(GO) tool -modfile=internal/tools/go.mod
# The embedded engine: fetched once per machine, beside Go's own caches.
CACHE      := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meterd
ENGINE_DIR := $(CACHE)/engine/26.5.3
ENGINE     := $(ENGINE_DIR)/libchdb.so
export METERD_ENGINE_LIBRARY ?= $(ENGINE)
TRACE      ?= $(firstword $(wildcard ../shared/data/AzureLLMInferenceTrace_code.csv testdata/AzureLLMInferenceTrace_code.csv))
TEST_TIMEOUT ?= 15m
FUZZTIME   ?= 60s
SOAK       ?= 10

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/meterd
	@mkdir -p bin
	$(GO) build $(GOFLAGS_BUILD) -o bin/meterd ./cmd/meterd

.PHONY: engine
engine: $(ENGINE) ## fetch the embedded engine once (libchdb, 166 MB)
$(ENGINE):
	deployments/fetch-engine.sh $(ENGINE_DIR)

.PHONY: run
run: build engine ## show the whole flow on a real trace and leave it running
	bin/meterd demo --keep $(if $(TRACE),--events $(TRACE))

.PHONY: test-deps
test-deps: engine ## install what the tests need and this machine lacks
	deployments/test-deps.sh

.PHONY: test
test: build test-deps ## run every test
	METERD_BINARY=$(CURDIR)/bin/meterd $(GO) test -timeout $(TEST_TIMEOUT) -shuffle=on ./...

.PHONY: test-race
test-race: build test-deps ## run every test with the race detector
	METERD_BINARY=$(CURDIR)/bin/meterd $(GO) test -race -timeout 30m -shuffle=on ./...

.PHONY: soak
soak: ## run random simulations of the books for SOAK minutes (10)
	$(GO) test ./internal/simulation -run '^TestSoak$$' -v -timeout 0 -simulation.soak $(SOAK)m

.PHONY: kills
kills: build test-deps ## end the daemon KILLS (100) times at every named point, on both engines
	METERD_BINARY=$(CURDIR)/bin/meterd METERD_KILLS=$(or $(KILLS),100) $(GO) test ./internal/e2e -run TestKilledAtNamedPoints -v -count=1 -timeout 60m

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (60s) each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

.PHONY: bench
bench: build engine ## measure the table of docs/benchmarks.md beside this machine's own limits
	METERD_BINARY=$(CURDIR)/bin/meterd $(GO) run ./internal/bench

.PHONY: bench-growth
bench-growth: build engine ## measure how closing grows with events, instances and days of history (about 12 minutes)
	METERD_BINARY=$(CURDIR)/bin/meterd $(GO) run ./internal/bench --only growth

.PHONY: lint
lint: ## run golangci-lint and check formatting and go.mod
	$(TOOL) golangci-lint run ./...
	$(GO) mod tidy -diff

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

.PHONY: golden
golden: ## rewrite the golden files (review the diff as code)
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

.PHONY: vuln
vuln: ## look for known vulnerabilities in what the binary uses
	$(TOOL) govulncheck ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
