#!/usr/bin/env bash
# The tests that take many minutes, because a tool reads and digests 100 GiB of holes: not part of test.sh.
#
# Usage: scripts/long.sh   (after scripts/test.sh, which installs what both need)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh

need_fuse
need_rust
cargo build --profile test-fast --workspace --bins --locked --quiet
cargo test --profile test-fast -p lacuna-tests --features long --test long --locked -- --test-threads=1 --nocapture
