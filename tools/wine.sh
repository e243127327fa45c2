#!/usr/bin/env bash
# Runs the Windows tests on Linux, under Wine: tools/wine.sh [package] [test flags]
#
# By default it runs the root package. It needs wine and mingw (on Debian:
# apt-get install wine wine64 gcc-mingw-w64-x86-64). UDP and unix sockets do not work
# in Wine 8, so tests that need them fail there.
set -euo pipefail
cd "$(dirname "$0")/.."
pkg=${1:-.}
[ $# -eq 0 ] || shift
for tool in wine x86_64-w64-mingw32-gcc; do
	command -v "$tool" >/dev/null || { echo "tools/wine.sh: $tool is not installed" >&2; exit 1; }
done
tmp=$(mktemp -d)
trap 'WINEPREFIX=$tmp/prefix wineserver -k 2>/dev/null || true; rm -rf "$tmp"' EXIT

# Go takes its random numbers from ProcessPrng, which Wine 8 does not have. Go loads the
# DLL from the system directory, not from that of the program.
cat >"$tmp/prng.c" <<'EOF'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T n) { return RtlGenRandom(data, n); }
EOF
x86_64-w64-mingw32-gcc -shared -o "$tmp/bcryptprimitives.dll" "$tmp/prng.c" -ladvapi32

GOOS=windows GOARCH=amd64 CGO_ENABLED=0 go test -c -o "$tmp/eventloop.test.exe" "$pkg"
export WINEPREFIX=$tmp/prefix WINEDEBUG=-all WINEDLLOVERRIDES='bcryptprimitives=n;mscoree,mshtml='
cd "$pkg" # where the tests find their files
wineboot -i
cp "$tmp/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/"
wine "$tmp/eventloop.test.exe" -test.timeout 20m "$@"
