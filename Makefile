# Weir. `make help` lists what there is.
SHELL   := /bin/bash
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# Tools come from the module proxy at these versions; nothing is installed.
GOTESTSUM   := $(GO) run gotest.tools/gotestsum@v1.13.0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The race detector needs a C compiler; a machine without one still runs every test.
RACE := $(shell command -v gcc >/dev/null 2>&1 && [ "$$($(GO) env GOARCH 2>&1)" = amd64 -o "$$($(GO) env GOARCH 2>&1)" = arm64 ] && echo -race)

# What we build for: GOARCH, or arm and its GOARM.
TARGETS := arm-6 arm-7 arm64 riscv64 amd64

SEED ?= 1
FOR  ?= 10m
HOST ?=
BENCH ?=

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: go-version
go-version:
	@have=$$($(GO) env GOVERSION 2>/dev/null | sed -E 's/^go//; s/[^0-9.].*//'); need=$$(sed -n 's/^go //p' go.mod); \
	if [ -z "$$have" ]; then echo "Weir needs Go $$need or newer, and there is no '$(GO)' here: install it from https://go.dev/dl"; exit 1; fi; \
	if [ "$$(printf '%s\n%s\n' "$$need" "$$have" | sort -V | head -n 1)" != "$$need" ] && [ "$$($(GO) env GOTOOLCHAIN)" = local -o "$$(printf '1.21\n%s\n' "$$have" | sort -V | head -n 1)" != 1.21 ]; then \
	echo "Weir needs Go $$need or newer, and this is Go $$have: install a newer one from https://go.dev/dl"; exit 1; fi

.PHONY: build
build: go-version ## build bin/weir and bin/firmware-sim for this machine
	@mkdir -p bin
	@$(BUILD) -o bin/ ./cmd/weir ./firmware-sim

.PHONY: run
run: build ## run Weir with simulated devices; the page is at http://localhost:8080
	@exec bin/firmware-sim demo --weir bin/weir --dir run

.PHONY: deps
deps: ## install the Debian packages that tests use as real peers, where that is possible
	@.ci/deps

.PHONY: test
test: go-version deps ## run every test; what is skipped is listed with its reason
	@$(GOTESTSUM) --format pkgname -- $(RACE) -timeout 20m ./...
	@cd firmware-sim/bench && $(GO) vet ./...

.PHONY: test-ble-vm
test-ble-vm: go-version deps ## Bluetooth through a real kernel in qemu, without hardware: scan, GATT and every fault
	@$(GO) run ./firmware-sim/hci/vm -kernel "$${XDG_CACHE_HOME:-$$HOME/.cache}/weir/kernel"

.PHONY: ble-noise
ble-noise: go-version ## a million broken advertisements and a million broken HCI packets
	@WEIR_NOISE=1000000 $(GO) test -count 1 -v -run '^TestNoise$$' ./devices/ble/...

.PHONY: store-arm
store-arm: deps ## the whole store suite as ARMv6, under qemu-user; takes long
	@command -v qemu-arm >/dev/null || { echo "qemu-arm is not installed: apt-get install qemu-user"; exit 1; }
	@mkdir -p bin && GOARCH=arm GOARM=6 CGO_ENABLED=0 $(GO) test -c -o bin/store-arm.test ./store
	@cd store && WEIR_EMULATOR=qemu-arm qemu-arm ../bin/store-arm.test -test.timeout 3h

.PHONY: bench
bench: build deps ## measure what users feel, beside the alternatives in the same run; BENCH has its flags
	@$(GO) test -run '^$$' -bench . -benchmem ./...
	@cd firmware-sim/bench && $(GO) run . -weir $(CURDIR)/bin/weir $(BENCH)

.PHONY: chaos
chaos: build ## faults of every kind for FOR=10m with SEED=1, and what was lost; as root, more kinds
	@$(BUILD) -tags faults -o bin/faults/weir ./cmd/weir
	@bin/firmware-sim chaos --weir bin/faults/weir --for $(FOR) --seed $(SEED)

.PHONY: campaign
campaign: build ## more than 1,000 kill -9 and 200 power cuts, in half an hour
	@$(BUILD) -tags faults -o bin/faults/weir ./cmd/weir
	@bin/firmware-sim chaos --weir bin/faults/weir --kills --for 30m --seed $(SEED)

.PHONY: fuzz
fuzz: ## run every fuzz target for FOR=10m each
	@.ci/fuzz $(FOR)

.PHONY: lint
lint: ## check formatting, vet, staticcheck
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w:"; echo "$$bad"; exit 1; fi
	@$(GO) vet ./...
	@$(GO) vet -tags faults ./cmd/weir
	@$(STATICCHECK) ./...

.PHONY: cross
cross: go-version ## build for every board, CGO-free, and print the sizes
	@mkdir -p bin; for t in $(TARGETS); do \
	arch=$${t%%-*}; arm=$${t#*-}; [ "$$arm" = "$$t" ] && arm=; \
	for p in cmd/weir firmware-sim; do \
	out=bin/$$(basename $$p)-linux-$${t/-/v}; \
	GOOS=linux GOARCH=$$arch GOARM=$$arm $(BUILD) -o $$out ./$$p || exit 1; \
	printf '%8.1f MB  %s\n' $$(stat -c %s $$out | awk '{print $$1/1e6}') $$out; done; done

.PHONY: deploy
deploy: go-version ## build for a board, copy it there and restart it: make deploy HOST=pi@raspberrypi.local
	@[ -n "$(HOST)" ] || { echo "say where to: make deploy HOST=pi@raspberrypi.local"; exit 2; }
	@set -e; machine=$$(ssh $(HOST) uname -m); \
	case "$$machine" in armv6l) arch=arm arm=6;; armv7l) arch=arm arm=7;; aarch64) arch=arm64 arm=;; riscv64) arch=riscv64 arm=;; x86_64) arch=amd64 arm=;; \
	*) echo "$(HOST) is a $$machine, which Weir is not built for"; exit 1;; esac; \
	GOOS=linux GOARCH=$$arch GOARM=$$arm $(BUILD) -o bin/weir-deploy ./cmd/weir; \
	scp -q bin/weir-deploy $(HOST):/tmp/weir.new; \
	ssh $(HOST) 'set -e; sudo install -m 755 /tmp/weir.new /usr/local/bin/weir; rm /tmp/weir.new; weir version; \
	if systemctl cat weir.service >/dev/null 2>&1; then sudo systemctl restart weir && systemctl --no-pager --lines 0 status weir; \
	else echo "copied; there is no weir.service there yet, so start it by hand: weir run"; fi'

.PHONY: clean
clean: ## remove what was built and the demo's data
	@rm -rf bin run
