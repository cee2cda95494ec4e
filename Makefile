# What a change has to pass, and the tools for it. Tools are installed at these versions into .bin,
# which git ignores: as tool lines of go.mod they would burden everybody who imports the library.
BUF_VERSION                = v1.75.0
PROTOC_GEN_GO_VERSION      = v1.36.12
PROTOC_GEN_GO_GRPC_VERSION = v1.6.2

GO  ?= go
BIN := $(CURDIR)/.bin
BUF := $(BIN)/buf-$(BUF_VERSION)

.PHONY: all check format vet test bench race generate lint-proto checkgenerate smoke clean

all: check test

check: format vet lint-proto checkgenerate

# format fails when a file is not formatted, and names it.
format:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted: $$files"; exit 1; fi

vet:
	$(GO) vet ./...

test:
	$(GO) test ./...

# bench runs each benchmark once, so that none rots; go test -bench . ./fsm/state and the like measure.
bench:
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

race:
	$(GO) test -race -timeout 20m ./...

# generate makes the code of the schemas anew.
generate: $(BUF) $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc
	$(BUF) format -w --config .buf/buf.yaml
	$(BUF) generate --config .buf/buf.yaml --template .buf/buf.gen.yaml

lint-proto: $(BUF)
	$(BUF) lint --config .buf/buf.yaml

# checkgenerate fails when the committed code is not what generate makes.
checkgenerate: generate
	@git diff --exit-code --stat -- '*.pb.go' '*.proto' || { echo "run make generate and commit"; exit 1; }

smoke:
	$(GO) run ./examples/standalone --smoke

$(BUF):
	GOBIN=$(BIN) $(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	mv $(BIN)/buf $@

$(BIN)/protoc-gen-go: Makefile
	GOBIN=$(BIN) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	@touch $@

$(BIN)/protoc-gen-go-grpc: Makefile
	GOBIN=$(BIN) $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	@touch $@

clean:
	rm -rf $(BIN)
