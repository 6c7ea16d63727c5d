#!/usr/bin/env bash
# The tests that take many minutes: tools that read and digest 100 GiB of holes, a server that is killed a thousand
# times under a writer, the simulation and the model with many seeds, and the suites of others at length. Not part of test.sh.
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

say "a server that is killed 1000 times"
LACUNA_KILLS=1000 cargo test --profile test-fast -p lacuna-tests --test crash --locked -- --test-threads=1

say "daemons that are killed under tools, and suspended for a minute"
LACUNA_KILLS=60 LACUNA_SUSPENDED=60 \
    cargo test --profile test-fast -p lacuna-tests --test faults --locked -- --test-threads=1

say "write-back in virtual time: 100,000 random runs through crashes and lost answers"
PROPTEST_CASES=100000 cargo test --release -p lacuna --lib --locked -- equals_an_array_through

say "the simulation: 100,000 seeds"
LACUNA_SIM_SEEDS=100000 cargo test --profile test-fast -p lacuna-tests --test sim --locked -- --test-threads=2 --nocapture nothing_is_lost

say "the model with other seeds"
for seed in $(seq 1001 1020); do
    LACUNA_SEED=$seed LACUNA_STEPS=2000 \
        cargo test --profile test-fast -p lacuna-tests --test model --locked --quiet -- --test-threads=2 --skip a_bug_is_found
done

LACUNA_BIN_DIR="$(realpath "${CARGO_TARGET_DIR:-target}")/test-fast" scripts/suites.sh long
