#!/usr/bin/env bash
# Suites of others on a live mount: fsx, pjdfstest, fio with verification, stress-ng.
#
# Usage: scripts/suites.sh [short|long] [SUITE]...      SUITE is fsx, pjdfstest, fio or stress
#
# `short` (the usual) takes about two minutes and is part of test.sh; `long` is part of long.sh. LACUNA_BIN_DIR
# names another folder of commands than target/test-fast, LACUNA_SEED another seed of fsx.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=scripts/lib/live_mount.sh
. scripts/lib/live_mount.sh

length=short
case ${1:-} in short | long) length=$1 && shift ;; esac
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(fsx pjdfstest fio stress)

need_fuse
need_rust
need fusermount3 fuse3 findmnt util-linux fio fio stress-ng stress-ng losetup mount cc gcc
target=$(realpath "${CARGO_TARGET_DIR:-target}")
bin=${LACUNA_BIN_DIR:-$target/test-fast}
tools=$target/tools
[ -x "$bin/lacuna" ] || fail "$bin/lacuna is missing: cargo build --profile test-fast --workspace --bins"

# need_crate NAME VERSION: a program from crates.io, built once.
need_crate() {
    [ -x "$tools/bin/$1" ] && "$tools/bin/$1" --version | grep -qF "$2" && return
    say "installing $1 $2 from crates.io"
    cargo install --quiet --locked --root "$tools" --version "$2" --target-dir "$target/tools/build" "$1"
}

# The folder's name is one that test.sh looks through for what was left behind.
mkdir -p "$target/lacuna-tests"
work=
server_pid=
finish() {
    local status=$?
    [ -z "$work" ] || abandon_mount
    if [ "$status" != 0 ] && [ -n "$work" ]; then
        printf '\n== %s FAILED\n' "$suite" >&2
        tail -n "${shown:-60}" "$work/output" >&2 || true
        tail -n 20 "$work/lacunad.log" "$work"/client/mounts/*.log >&2 || true
    fi
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The server's file is the volume, byte for byte: to be called after the mount has ended.
same_at_server() {
    cmp "$1" "$2" || fail "the server's file $2 is not what was written"
}

for suite in "${suites[@]}"; do
    file=scripts/suites/$suite.sh
    [ -f "$file" ] || fail "unknown suite $suite"
    # shellcheck source=/dev/null
    . "$file"
    work=$(mktemp -d "$target/lacuna-tests/run-suite-XXXXXX")
    started=$SECONDS
    say "$suite ($length)"
    "suite_$suite" "$length"
    abandon_mount
    rm -rf --one-file-system "$work"
    work=
    printf '%s: passed, %s s\n' "$suite" "$((SECONDS - started))"
done
