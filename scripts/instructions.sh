#!/usr/bin/env bash
# Counts the instructions of hot paths under callgrind and compares them with scripts/instructions.tsv: what got more than
# 5 % dearer fails, what got more than 5 % cheaper is to be written down, so that it stays.
#
# Usage: scripts/instructions.sh [--update] [--profile PROFILE]
#
# Unlike time, instructions are the same on a busy machine. They say nothing of waiting, caches or system calls. A
# path is run for two counts, and the difference is what its operations take, without the preparation. The figures are
# those of the profile of the tests (test-fast, where assertions are on), of x86-64, and of one compiler: another
# one may need another table.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh

# In percent of the figure that is written down.
tolerance=5
few=2000
many=6000
paths="extent-map-seek cached-read-4k server-read-4k"
profile=test-fast
table=scripts/instructions.tsv
update=no
while [ $# -gt 0 ]; do
    case $1 in
        --update) update=yes ;;
        --profile) profile=$2 && shift ;;
        *) fail "unknown option $1; see the head of this file" ;;
    esac
    shift
done

if [ "$(uname -m)" != x86_64 ]; then
    printf 'SKIPPED: the instructions of %s are not those of x86_64\n' "$(uname -m)" >&2
    exit 0
fi
need_rust
need valgrind valgrind
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The same choice of crates and targets as in test.sh, so that nothing is built again.
cargo build --profile "$profile" --workspace --bench instructions --locked --message-format=json-render-diagnostics >"$work/build"
program=$(grep '"name":"instructions"' "$work/build" | grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d'"' -f4)
[ -x "$program" ] || fail "cargo did not say where it built the bench instructions"

# A copy by `rep movsb` counts as one instruction for each byte, and whether there is one depends on the processor.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000
export RUST_BACKTRACE=0

# counted PATH COUNT
counted() {
    valgrind --tool=callgrind --callgrind-out-file="$work/callgrind" "$program" "$1" "$2" >"$work/log" 2>&1 ||
        fail "$1 does not run under callgrind: $(tail -n 1 "$work/log")"
    sed -n 's/^totals: *//p' "$work/callgrind"
}

: >"$work/table"
status=0
for path in $paths; do
    low=$(counted "$path" $few)
    high=$(counted "$path" $many)
    found=$(((high - low) / (many - few)))
    printf '%s\t%s\n' "$path" "$found" >>"$work/table"
    [ $update = no ] || continue
    known=$(awk -F '\t' -v path="$path" '$1 == path { print $2 }' "$table")
    [ -n "$known" ] || fail "$path is not in $table: run scripts/instructions.sh --update"
    printf '%-16s %6s instructions each, %s before\n' "$path" "$found" "$known"
    if [ "$found" -gt $((known + known * tolerance / 100)) ]; then
        printf '%s got dearer by more than %s %%. What costs them: valgrind --tool=callgrind %s %s %s, then callgrind_annotate.\nIf it is worth it, or the compiler is another one: scripts/instructions.sh --update, and say why in the commit.\n' \
            "$path" $tolerance "$program" "$path" $many >&2
        status=1
    elif [ "$found" -lt $((known - known * tolerance / 100)) ]; then
        printf '%s got cheaper: run scripts/instructions.sh --update, so that it stays so.\n' "$path" >&2
    fi
done

if [ $update = yes ]; then
    {
        printf '# Instructions of one operation: scripts/instructions.sh. Counted with %s, %s, profile %s.\n' \
            "$(rustc --version)" "$(valgrind --version)" "$profile"
        cat "$work/table"
    } >"$table"
    cat "$table"
fi
exit $status
