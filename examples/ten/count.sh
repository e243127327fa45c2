#!/usr/bin/env bash
# Prints how many lines each program has, without imports, comments and blank lines, with
# eventloop and in plain Go; fails if plain Go needs no more, or the sum is over 480.
set -euo pipefail
cd "$(dirname "$0")"

count() {
	awk '
		/^import \(/ { in_import = 1 }
		in_import || /^import / || /^[ \t]*\/\// || /^[ \t]*$/ { if (/^\)/) in_import = 0; next }
		{ n++ }
		END { print n }' "$1/main.go"
}

printf '%-10s %9s %8s\n' program eventloop plain
ours=0 plain=0 failed=0
for dir in plain/*/; do
	name=$(basename "$dir")
	a=$(count "$name") b=$(count "plain/$name")
	printf '%-10s %9d %8d\n' "$name" "$a" "$b"
	[ "$a" -lt "$b" ] || failed=1
	ours=$((ours + a)) plain=$((plain + b))
done
printf '%-10s %9d %8d\n' sum "$ours" "$plain"
[ "$failed" = 0 ] && [ "$ours" -le 480 ]
