# A server with many mounts, for bench.sh --crowd: its memory, and how long one of its mounts waits for 4 KiB.
#
# Each mount is that of a client of its own, as on as many hosts. Measured alone, beside mounts that are idle, and beside
# some of these that read at random as fast as they can. Only lacuna.
# Sourced by bench.sh.
#
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with bench.sh

crowd_idle=200
crowd_busy=16
crowd_samples=3
# The default of 1 GiB has room for about half as many sessions; memory is taken as it is used, not before.
crowd_memory=4G

crowd_mib() {
    awk '/^VmRSS/ { print $2 / 1024 }' "/proc/${servers[lacuna]}/status"
}

# crowd_state TITLE: samples of one state, each with a mount of its own, whose caches are cold.
crowd_state() {
    local sample half most
    for sample in $(seq "$crowd_samples"); do
        mount_lacuna dense
        read -r _ half most < <("$bin/measure" random "$work/mnt/dense" 1 "$random_seconds" 1)
        unmount_lacuna
        record "server, $1: 4 KiB read, median" us lacuna "$sample" "$half"
        record "server, $1: 4 KiB read, 99 of 100" us lacuna "$sample" "$most"
        record "server, $1: memory" MiB lacuna "$sample" "$(crowd_mib)"
    done
}

measure_crowd() {
    local number busy=() pid
    [[ " $systems " == *" lacuna "* ]] || return 0
    say "a server with $crowd_idle idle mounts and $crowd_busy busy ones"
    client_cpu=- server_cpu=-
    cp "$volumes/dense" /dev/null
    kill "${servers[lacuna]}"
    await_end "${servers[lacuna]}"
    start_lacuna --memory "$crowd_memory"
    crowd_state "one mount"
    for number in $(seq "$crowd_idle"); do
        mkdir -p "$work/crowd/$number/mnt" "$work/crowd/$number/client"
        admit_lacuna "$work/crowd/$number/client"
        lacuna_of "$work/crowd/$number/client" mount "$lacuna_at" "$work/crowd/$number/mnt"
    done
    crowd_state "beside $crowd_idle idle mounts"
    for number in $(seq "$crowd_busy"); do
        crowd_reader "$number" &
        busy+=($!)
        pids+=($!)
    done
    crowd_state "beside $crowd_busy busy ones, too"
    for pid in "${busy[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    for number in $(seq "$crowd_idle"); do
        take_away "$work/crowd/$number/mnt" lacuna_of "$work/crowd/$number/client" umount "$work/crowd/$number/mnt"
    done
}

# Reads until it is told to end: as many seconds as all samples take, and more.
crowd_reader() {
    exec "$bin/measure" random "$work/crowd/$1/mnt/dense" 1 600 "$((1000 + $1))" >/dev/null
}
