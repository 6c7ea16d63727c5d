#!/usr/bin/env bash
# Measures lacuna beside what users have today, in one run on one machine: nbdkit + nbdfuse and
# nbdkit + qemu-storage-daemon's FUSE export (both over TLS), sshfs, and the local disk; for the transfers without
# a mount nbdcopy over TLS, qemu-img convert over NBD, and rsync over ssh. Beside the limits of the machine, too: a FUSE file
# system that does nothing (null), the same with one more thread (handoff), and a bare transfer over QUIC (quic).
#
# Usage: scripts/bench.sh [--quick] [--rounds N] [--systems "A B"] [--rows "A B"] [--bound SECONDS]
#                         [--link CONDITIONS]... [--no-local] [--crowd] [--json FILE] [--plots FOLDER]
#
#   --quick    volumes 16 times smaller, one round, short bounds: about a minute, without sshfs if no
#              systems are named; good for finding out whether it works
#   --link     measures over an emulated link as well, for example rtt=20ms,loss=1%,rate=1gbit; `each` is 1, 20 and
#              100 ms with 0 and 1 % of loss at 1 Gbit/s. Can be given several times
#   --no-local leaves the rows without a link out
#   --crowd    a server with 200 mounts that are idle and 16 that are busy, as well
#   --bound    the longest that a row may take (120 s; 5 with --quick): what is stopped then says how far it got
#   --json     every single measurement with its unit, the medians, and what the machine is
#   --plots    draws them
#
# Rounds are interleaved and begin with one system after the other, each row has a fresh mount, the server's page cache is warm, and the table shows
# medians with their spread. The full run needs 30 GiB of disk for a while: some copies lose their holes.
set -euo pipefail
export RUST_BACKTRACE=0
called_from=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh
# shellcheck source=scripts/bench/systems.sh
. scripts/bench/systems.sh
# shellcheck source=scripts/bench/rows.sh
. scripts/bench/rows.sh
# shellcheck source=scripts/bench/crowd.sh
. scripts/bench/crowd.sh

# A path as the caller means it.
from_caller() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf '%s/%s' "$called_from" "$1" ;;
    esac
}

size=full
rounds=3
random_seconds=5
write_mib=1024
memory_mib=3072
write_seconds=5
bound=120
systems=""
wanted=""
conditions=(local)
crowd=no
json=""
plots=""
links_each=("rtt="{1,20,100}"ms,loss="{0,1}"%,rate=1gbit")
while [ $# -gt 0 ]; do
    case $1 in
        --quick) size=quick rounds=1 random_seconds=0.5 write_mib=64 memory_mib=256 write_seconds=0.5 bound=5 ;;
        --rounds) rounds=$2 && shift ;;
        --systems) systems=$2 && shift ;;
        --rows) wanted=$2 && shift ;;
        --bound) bound=$2 && shift ;;
        --link)
            if [ "$2" = each ]; then conditions+=("${links_each[@]}"); else conditions+=("$2"); fi
            shift
            ;;
        --no-local) conditions=("${conditions[@]:1}") ;;
        --crowd) crowd=yes ;;
        --json) json=$(from_caller "$2") && shift ;;
        --plots) plots=$(from_caller "$2") && shift ;;
        *) fail "unknown option $1; see the head of this file" ;;
    esac
    shift
done

# The slowest one has no place in a minute.
[ -n "$systems" ] || [ $size = full ] || systems="lacuna nbdfuse qemu local null handoff quic"
[ -n "$systems" ] || systems="lacuna nbdfuse qemu sshfs local null handoff quic"

need_fuse
need_rust
need qemu-img qemu-utils fusermount3 fuse3 findmnt util-linux nsenter util-linux ip iproute2
for system in $systems; do
    case $system in
        nbdfuse) need nbdkit nbdkit nbdfuse libnbd-bin nbdcopy libnbd-bin certtool gnutls-bin ;;
        qemu) need nbdkit nbdkit qemu-storage-daemon qemu-system-common certtool gnutls-bin ;;
        sshfs) need sshfs sshfs sshd openssh-server rsync rsync ;;
        lacuna | local | null | handoff | quic) ;;
        *) fail "unknown system $system" ;;
    esac
done

say "building"
# As they are shipped; that takes longer than a quick run may.
profile=dist
[ $size = full ] || profile=release
cargo build --profile $profile --quiet --bins --workspace --features lacuna-tests/limits --locked
target=${CARGO_TARGET_DIR:-target}
bin=${LACUNA_BIN_DIR:-$(realpath "$target")/$profile}
base=$(mktemp -d "$(realpath "$target")/bench-XXXXXX")
volumes=$base/volumes
work=$base
link_pid=
finish() {
    stop_systems
    [ -z "$link_pid" ] || kill "$link_pid" 2>/dev/null || true
    rm -rf --one-file-system "$base"
}
trap finish EXIT
trap 'exit 130' INT TERM
mkdir "$volumes"
touch "$base/raw" "$base/facts" "$base/copy-mib"

fact() {
    printf '%s\t%s\n' "$1" "$2" >>"$base/facts"
}

# The first line of what a command prints, if there is such a command.
version() {
    ! command -v "$1" >/dev/null 2>&1 || fact "$1" "$("$@" 2>&1 | head -n 1)"
}

note_facts() {
    fact run "$(date --utc +%Y-%m-%d) ($size volumes, $rounds rounds, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown))"
    fact kernel "$(uname -sr)"
    fact cores "$(nproc)"
    fact processor "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    fact memory_kib "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
    fact file_system "$(findmnt --noheadings --output FSTYPE --target "$base")"
    fact load_before "$(cut -d' ' -f1-3 /proc/loadavg)"
    version rustc --version
    version nbdkit --version
    version nbdfuse --version
    version qemu-storage-daemon --version
    version sshfs --version
    version rsync --version
}

# Discards of what was deleted before, also by an earlier run, are carried out long after it is gone, and hold up all that writes.
await_quiet_disk() {
    local before now quiet=0 deadline=$((SECONDS + 180))
    before=$(disk_requests)
    while [ $quiet -lt 3 ] && [ $SECONDS -lt $deadline ]; do
        sleep 1
        now=$(disk_requests)
        if [ $((now - before)) -lt 100 ]; then quiet=$((quiet + 1)); else quiet=0; fi
        before=$now
    done
    [ $quiet -ge 3 ] || printf 'the disk is still busy: the first rows may suffer\n' >&2
}

# Writes and discards that disks have completed so far.
disk_requests() {
    awk '{ sum += $8 + $15 } END { print sum }' /proc/diskstats
}

# What the writing rows change: a hole to write into, and a sparse volume with a place for its copy.
make_scratch() {
    rm -f "$volumes"/scratch "$volumes"/source "$volumes"/target
    truncate -s "${write_mib}M" "$volumes/scratch"
    [ "$1" != inside ] || cp --sparse=auto --reflink=never "$volumes/sparse" "$volumes/source"
    sync -f "$volumes"
}

prepare() {
    writable=
    beside=
    case $2 in
        scratch) make_scratch "$1" && writable=yes ;;
        none) ;;
        # The server's page cache holds the volume, as it would on a server that is in use.
        *) cp --sparse=auto "$volumes/$2" /dev/null ;;
    esac
}

# A host that took free memory away gives it back page by page, for tens of microseconds each, to whatever is measured then.
# So it is asked for before, as much as a row needs in page caches: the copy of 1 GiB has it twice.
touch_memory() {
    "$bin/measure" memory "$memory_mib" >>"$base/page-us"
}

# cpu PROCESS...: the seconds that these have used, - if there are none.
cpu() {
    if [ $# -gt 0 ]; then "$bin/measure" cpu "$@"; else echo -; fi
}

difference() {
    awk -v before="$1" -v after="$2" 'BEGIN { print before == "-" || after == "-" ? "-" : sprintf("%.2f", after - before) }'
}

# can SYSTEM ROW: false where a limit has no way to do this.
can() {
    case $1 in
        null) [[ "$impossible_null" != *" $2 "* ]] ;;
        quic) [[ "$possible_quic" == *" $2 "* ]] ;;
        handoff) [[ "$possible_handoff" == *" $2 "* ]] ;;
        local | lacuna | nbdfuse | qemu | sshfs) true ;;
    esac
}

# measure_cell ROW VOLUME SYSTEM sets $figure, $client_cpu and $server_cpu.
measure_cell() {
    local name=$1 volume=$2 system=$3 row=row_$1 status=0 client_before server_before
    ! declare -F "row_${name}_$system" >/dev/null || row=row_${name}_$system
    prepare "$name" "$volume"
    rm -f "$work/client-cpu"
    file='' clients=()
    [ "$volume" = none ] || "mount_$system" "$volume"
    touch_memory
    # shellcheck disable=SC2086 # a list of processes
    server_before=$(cpu ${servers[$system]:-})
    client_before=$(cpu "${clients[@]}")
    set +e
    figure=$(
        set -e
        "$row" "$system"
    )
    status=$?
    set -e
    # shellcheck disable=SC2086 # a list of processes
    server_cpu=$(difference "$server_before" "$(cpu ${servers[$system]:-})")
    client_cpu=$(difference "$client_before" "$(cpu "${clients[@]}")")
    [ ! -s "$work/client-cpu" ] || client_cpu=$(grep -xE '[0-9.]+' "$work/client-cpu" || echo -)
    [ "$volume" = none ] || "unmount_$system"
    if [ $status != 0 ] || [ -z "$figure" ]; then
        figure="- failed"
        printf '%s of %s failed:\n' "$name" "$system" >&2
        tail -n 3 "$work"/commands.log "$work"/measure.log "$work"/client-cpu >&2 2>/dev/null || true
    fi
}

# record TITLE UNIT SYSTEM ROUND FIGURE
record() {
    local value note
    read -r value note <<<"$5"
    printf '%-46s %-8s %14s %s %s\n' "$1" "$3" "$value" "$2" "$note"
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$condition" "$1" "$2" "$3" "$4" "$value" "${note#stopped }" \
        "$client_cpu" "$server_cpu" >>"$base/raw"
}

# What the daemons of both sides used for a whole volume, for each GiB of it.
record_cpu() {
    local title=$1 system=$2 round=$3 sum
    [[ "$figure" != *stopped* && "$figure" != -* && "$system" != local ]] || return 0
    sum=$(awk -v client="$client_cpu" -v server="$server_cpu" -v mib="$write_mib" \
        'BEGIN { print (client + server) * 1024 / mib }')
    record "processor time of both daemons, $title" s/GiB "$system" "$round" "$sum"
}

# rotated ROUND "A B C": the same from another one on in each round. Who comes first may find other memory than the next.
rotated() {
    tr ' ' '\n' <<<"$2 $2" | awk -v round="$1" 'NF { name[count++] = $1 }
        END { half = count / 2; for (i = 0; i < half; i++) print name[(round - 1) % half + i] }'
}

measure_row() {
    local round=$1 name volume unit where title system
    IFS='|' read -r name volume unit where title <<<"$2"
    [ -z "$wanted" ] || [[ " $wanted " == *" $name "* ]] || return 0
    [ "$condition" = local ] || [ "$where" = all ] || return 0
    for system in $(rotated "$round" "$condition_systems"); do
        can "$system" "$name" || continue
        measure_cell "$name" "$volume" "$system"
        record "$title" "$unit" "$system" "$round" "$figure"
        [ -z "${moved[$name]:-}" ] || record_cpu "${moved[$name]}" "$system" "$round"
    done
}

# Two sides and what lies between them; without a link, nothing and loopback.
start_link() {
    on_server=() on_client=() server_ip=127.0.0.1
    condition_systems=$systems
    [ "$condition" != local ] || return 0
    local words side address namespace
    IFS=, read -r -a words <<<"$condition"
    "$bin/link" "${words[@]}" >"$work/link.out" 2>"$work/link.log" </dev/null &
    link_pid=$!
    await grep -q ready "$work/link.out"
    while read -r side address namespace; do
        case $side in
            server) server_ip=$address on_server=(nsenter "--net=$namespace" --) ;;
            client) on_client=(nsenter "--net=$namespace" --) ;;
        esac
    done <"$work/link.out"
    # What has no network in it is as fast as before.
    condition_systems=$(tr ' ' '\n' <<<"$systems" | grep -vx -e local -e null -e handoff | tr '\n' ' ')
}

stop_link() {
    [ -n "$link_pid" ] || return 0
    kill "$link_pid" 2>/dev/null || true
    wait "$link_pid" 2>/dev/null || true
    link_pid=
}

measure_condition() {
    local system round row
    work=$base/$1
    mkdir -p "$work/mnt" "$work/client" "$work/server"
    start_link
    for system in $condition_systems; do
        "start_$system"
    done
    for round in $(seq "$rounds"); do
        say "$condition: round $round of $rounds"
        for row in "${rows[@]}"; do
            measure_row "$round" "$row"
        done
    done
    [ "$crowd$condition" != yeslocal ] || measure_crowd
    [ ! -s "$work/copy-mib" ] || sort -u "$work/copy-mib" >>"$base/copy-mib"
    stop_systems
    stop_link
    work=$base
}

note_facts
say "making volumes ($size)"
"$bin/measure" make "$volumes" "$size"
# What is still to be written would be written while the first rows are measured.
sync -f "$volumes"
await_quiet_disk
number=0
for condition in "${conditions[@]}"; do
    number=$((number + 1))
    measure_condition "condition-$number"
done
fact page_us "$(sort -n "$base/page-us" | awk '{ us[NR] = $1 } END { print us[1] " to " us[NR] ", median " us[int((NR + 1) / 2)] }')"
fact load_after "$(cut -d' ' -f1-3 /proc/loadavg)"

say "medians of $rounds rounds (lowest to highest), and how many times better lacuna is"
sed 's/\t/: /' "$base/facts"
"$bin/measure" table "$base/raw" "$base/facts" "$base/json"
if [ -s "$base/copy-mib" ]; then
    printf '\ndisk space of the copies\n'
    sort -u "$base/copy-mib" | awk -F '\t' '{ printf "  %-14s %12d MiB\n", $1, $2 }'
fi
[ -z "$json" ] || cp "$base/json" "$json"
if [ -n "$plots" ]; then
    mkdir -p "$plots"
    "$bin/measure" plot "$base/json" "$plots"
fi
# The others lack some of the calls; lacuna has all of them, so what it did not do is a fault.
if awk -F '\t' '$4 == "lacuna" && $6 == "-" { print $1 ": " $2 " failed: " $7; found = 1 } END { exit !found }' "$base/raw" >&2; then
    fail "rows of lacuna failed"
fi
