#!/usr/bin/env bash
# Runs tests for arm64 on another processor, under qemu-user: tools/arm64.sh [packages]
#
# By default it runs looptest and the packages in internal/, which take minutes; the
# root package takes much longer. It needs qemu (on Debian: apt-get install
# qemu-user-static).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v qemu-aarch64-static >/dev/null || { echo "tools/arm64.sh: qemu-aarch64-static is not installed" >&2; exit 1; }
[ $# -gt 0 ] || set -- ./looptest ./internal/...
GOARCH=arm64 CGO_ENABLED=0 go test -short -exec qemu-aarch64-static "$@"
