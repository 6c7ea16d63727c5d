# fsx: random operations on one file, every read checked. Sourced by suites.sh.
#
# Buffered, with O_DIRECT on every read and write, and as a block device over the mount. A call that the file
# system does not support would be left out silently by some versions: a line that says so is a failure.
#
# shellcheck shell=bash disable=SC2154 # variables of suites.sh

suite_fsx() {
    local operations=6000 runs=2 seed=${LACUNA_SEED:-1} run
    [ "$1" = short ] || operations=200000 runs=10
    need_crate fsx 0.3.2
    cc -O2 -fPIC -shared -o "$work/direct.so" scripts/suites/direct.c -ldl
    start_mount
    for run in $(seq "$runs"); do
        run_fsx buffered scripts/suites/fsx.toml "$work/mnt/buffered-$run" "$((seed + run))"
        LACUNA_DIRECT=$work/mnt/direct-$run LD_PRELOAD=$work/direct.so \
            run_fsx direct scripts/suites/fsx.toml "$work/mnt/direct-$run" "$((seed + 100 + run))"
    done
    fsx_on_a_device "$((seed + 200))"
    cp "$work/mnt/buffered-1" "$work/buffered"
    end_mount
    same_at_server "$work/buffered" "$work/served/buffered-1"
}

# run_fsx TITLE CONFIG FILE SEED
run_fsx() {
    local count
    printf 'fsx %s, seed %s, %s operations\n' "$1" "$4" "$operations"
    mkdir -p "$work/artifacts"
    if ! "$tools/bin/fsx" -f "$2" -P "$work/artifacts" -S "$4" -N "$operations" "$3" >"$work/output" 2>&1; then
        fail "fsx $1 with seed $4 failed: replay with LACUNA_SEED, see its output"
    fi
    if grep -iE 'disabl|not support' "$work/output"; then
        fail "fsx $1 left a call out"
    fi
    # With O_DIRECT on purpose: whether the descriptor had it is written by direct.c.
    if [ "$1" = direct ]; then
        count=$(grep -c 'opened with O_DIRECT' "$work/output" || true)
        [ "$count" -gt 0 ] || fail "fsx direct did not open its file with O_DIRECT"
    fi
}

# Through a loop device with direct I/O: aligned, and the size never changes.
fsx_on_a_device() {
    local device
    truncate -s 1M "$work/mnt/device"
    device=$(losetup --find --show --direct-io=on "$work/mnt/device")
    run_fsx device scripts/suites/fsx-device.toml "$device" "$1" || {
        losetup --detach "$device"
        fail "fsx on a device"
    }
    losetup --detach "$device"
}
