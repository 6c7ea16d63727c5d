#!/usr/bin/env bash
# Measures lacuna beside what users have today, in one run on one machine: nbdkit + nbdfuse and
# nbdkit + qemu-storage-daemon's FUSE export (both over TLS), sshfs, and the local disk; for the transfers without
# a mount nbdcopy over TLS, qemu-img convert over NBD, and rsync over ssh.
#
# Usage: scripts/bench.sh [--quick] [--rounds N] [--systems "A B"] [--rows "A B"] [--json FILE]
#
# Rounds are interleaved, each row has a fresh mount, the server's page cache is warm, and the table shows
# medians with their spread. The full run needs 25 GiB of disk for a while: some copies lose their holes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=scripts/bench/systems.sh
. scripts/bench/systems.sh
# shellcheck source=scripts/bench/rows.sh
. scripts/bench/rows.sh

size=full
rounds=3
fio_seconds=5
write_mib=1024
write_seconds=5
systems="lacuna nbdfuse qemu sshfs local"
wanted=""
json=""
while [ $# -gt 0 ]; do
    case $1 in
        --quick) size=quick rounds=1 fio_seconds=2 write_mib=128 write_seconds=2 ;;
        --rounds) rounds=$2 && shift ;;
        --systems) systems=$2 && shift ;;
        --rows) wanted=$2 && shift ;;
        --json) json=$2 && shift ;;
        *) fail "unknown option $1; see the head of this file" ;;
    esac
    shift
done

need_fuse
need_rust
need fio fio qemu-img qemu-utils fusermount3 fuse3 findmnt util-linux
for system in $systems; do
    case $system in
        nbdfuse) need nbdkit nbdkit nbdfuse libnbd-bin nbdcopy libnbd-bin certtool gnutls-bin ;;
        qemu) need nbdkit nbdkit qemu-storage-daemon qemu-system-common certtool gnutls-bin ;;
        sshfs) need sshfs sshfs sshd openssh-server rsync rsync ;;
        lacuna | local) ;;
        *) fail "unknown system $system" ;;
    esac
done

say "building"
cargo build --release --quiet --bins --workspace
target=${CARGO_TARGET_DIR:-target}
bin=${LACUNA_BIN_DIR:-$(realpath "$target")/release}
work=$(mktemp -d "$(realpath "$target")/bench-XXXXXX")
volumes=$work/volumes
finish() {
    stop_systems
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
mkdir "$volumes" "$work/mnt" "$work/client" "$work/server"

say "making volumes ($size)"
"$bin/measure" make "$volumes" "$size"
for system in $systems; do
    "start_$system"
done

# What the writing rows change: a hole to write into, and a sparse volume with a place for its copy.
make_scratch() {
    rm -f "$volumes"/scratch "$volumes"/source "$volumes"/target
    truncate -s "${write_mib}M" "$volumes/scratch"
    cp --sparse=auto --reflink=never "$volumes/sparse" "$volumes/source"
    sync -f "$volumes"
}

measure_cell() {
    local name=$1 volume=$2 system=$3 value
    writable=
    beside=
    if [ "$volume" = scratch ]; then
        make_scratch
        writable=yes
    else
        # The server's page cache holds the volume, as it would on a server that is in use.
        cp --sparse=auto "$volumes/$volume" /dev/null
    fi
    "mount_$system" "$volume"
    value=$("row_$name" "$system")
    "unmount_$system"
    printf '%s' "$value"
}

for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    for row in "${rows[@]}"; do
        IFS='|' read -r name volume unit title <<<"$row"
        [ -z "$wanted" ] || [[ " $wanted " == *" $name "* ]] || continue
        for system in $systems; do
            value=$(measure_cell "$name" "$volume" "$system")
            printf '%-40s %-8s %14s %s\n' "$title" "$system" "$value" "$unit"
            printf '%s\t%s\t%s\t%s\n' "$title" "$unit" "$system" "$value" >>"$work/raw"
        done
    done
done

say "medians of $rounds rounds (lowest to highest), and how many times better lacuna is"
printf 'Linux %s, %s cores, %s volumes\n' "$(uname -r)" "$(nproc)" "$size"
"$bin/measure" table "$work/raw" "$work/json"
if [ -s "$work/copy-mib" ]; then
    printf '\ndisk space of the copy\n'
    sort -u "$work/copy-mib" | awk -F '\t' '{ printf "  %-14s %12d MiB\n", $1, $2 }'
fi
if [ -n "$json" ]; then
    cp "$work/json" "$json"
fi
