#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each (default 60), with coverage feedback from libFuzzer on the stable
# toolchain. A crash leaves its input below fuzz/artifacts and fails. Longer: scripts/fuzz.sh 3600
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}

if ! command -v c++ >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends g++ >/dev/null
fi

# What cargo-fuzz passes with --sanitizer none: instrumentation only, so no nightly is needed.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1 --cfg fuzzing"
target=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --quiet --target "$target"

run_target() {
    local name=$1 log runs
    log=$(mktemp)
    # -rss_limit_mb: no input of a few KiB may make a decoder take more memory than this.
    if ! "target/$target/release/$name" -max_total_time="$seconds" -max_len=65536 -timeout=5 -rss_limit_mb=512 \
        -print_final_stats=1 -artifact_prefix="artifacts/$name/" "corpus/$name" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "fuzz: $name failed; its input is below fuzz/artifacts/$name" >&2
        return 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rm -f "$log"
    echo "fuzz: $name: $runs runs in $seconds s, no failure"
    [ "${runs:-0}" -gt 1000 ] || { echo "fuzz: $name hardly ran" >&2; return 1; }
}

# As many at once as there are processors.
running=()
failed=0
for source in src/bin/*.rs; do
    name=$(basename "$source" .rs)
    mkdir -p "corpus/$name" "artifacts/$name"
    if [ ${#running[@]} -ge "$(nproc)" ]; then
        wait "${running[0]}" || failed=1
        running=("${running[@]:1}")
    fi
    run_target "$name" &
    running+=($!)
done
for pid in "${running[@]}"; do
    wait "$pid" || failed=1
done
exit "$failed"
