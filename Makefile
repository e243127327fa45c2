# What a developer runs. .ci/run runs all of it, and more.

root := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
FUZZTIME ?= 2000x

.PHONY: test race lint fuzz bench models

test:
	go test ./...

race:
	go test -race -shuffle=on ./...

# gofmt, vet, modules and staticcheck, of the module in the working directory: another one
# with make -C DIR -f PATH/Makefile lint.
lint:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	go vet ./...
	go mod tidy -diff
	go mod verify
	go tool -modfile=$(root)tools/go.mod staticcheck ./...

# Each fuzz target for FUZZTIME, a number of inputs or a duration.
fuzz:
	@for pkg in $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "-- $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

# State-machine tests, a million steps each.
models:
	.ci/models

# Whole servers beside each other, a few minutes, and then the parts.
bench:
	cd bench && go run . -quick
	go test -run '^$$' -bench . -benchmem ./...
