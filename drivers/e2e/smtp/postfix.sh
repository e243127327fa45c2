#!/usr/bin/env bash
# Runs the tests of drivers/smtp with Postfix, which takes root and
# apt-get install postfix. Where one of these is missing it says so.
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -x /usr/sbin/postfix ] && ! command -v postfix >/dev/null; then
	echo 'skipped: postfix is not installed'
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo 'skipped: postfix takes root'
	exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! go test -count=1 -v -run '/^postfix$' . >"$log" 2>&1; then
	cat "$log" # with the reason
	exit 1
fi
grep -E '^ *---|^(ok|FAIL|PASS)' "$log"
