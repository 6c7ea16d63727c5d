# The rows of bench.sh: row_NAME SYSTEM prints one number, or - where the system cannot do it.
#
# Each is called with a fresh mount. $rows lists `NAME|VOLUME|UNIT|TITLE`. The volume `scratch` is one that the row
# may change: it is made afresh, and mounted writable. Sourced by bench.sh.
#
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with bench.sh

rows=(
    "copy|sparse|s|cp --sparse=auto of a sparse volume"
    "walk|extents|s|walk by SEEK_DATA and SEEK_HOLE"
    "map|extents|s|qemu-img map"
    "first|dense|MiB/s|sequential read, first time"
    "again|dense|MiB/s|sequential read, after reopening"
    "hole|hole|MiB/s|read of a hole"
    "random1|dense|1/s|random reads of 4 KiB, one at a time"
    "random16|dense|1/s|random reads of 4 KiB, 16 threads"
    "write|scratch|MiB/s|sequential write and fsync"
    "sync4k|scratch|1/s|writes of 4 KiB, fdatasync after each"
    "write4k|scratch|MiB/s|buffered writes of 4 KiB, then fsync"
    "punch|scratch|1/s|holes of 64 KiB punched into data"
    "inside|scratch|s|copy of a sparse volume within the mount"
    "pull|sparse|s|download of a sparse volume"
    "push|sparse|s|upload of a sparse volume"
    "huge|huge|s|download of 8 TiB with 1.5 GB of data"
    "delta|sparse|MB|sent to update a copy, 1000 blocks of 4 KiB changed"
)

now() {
    date +%s.%N
}

elapsed_since() {
    awk -v start="$1" -v end="$(now)" 'BEGIN { printf "%.6f\n", end - start }'
}

row_copy() {
    local start
    rm -f "$work/copy"
    start=$(now)
    cp --sparse=auto "$file" "$work/copy"
    elapsed_since "$start"
    # A copy that lost its holes is worth a line.
    printf '%s\t%s\n' "$1" "$(du --block-size=1M "$work/copy" | cut -f1)" >>"$work/copy-mib"
    rm -f "$work/copy"
}

# A file system without lseek says: one extent.
row_walk() {
    local seconds extents
    read -r seconds extents < <("$bin/measure" walk "$file")
    [ "$extents" -gt 1 ] && echo "$seconds" || echo -
}

row_map() {
    local start seconds
    start=$(now)
    qemu-img map --output=json -f raw "$file" >"$work/map.json"
    seconds=$(elapsed_since "$start")
    [ "$(grep -c '"data": true' "$work/map.json")" -gt 1 ] && echo "$seconds" || echo -
}

read_rate() {
    "$bin/measure" read "$file" | awk '{ printf "%.1f\n", $2 / 1048576 / $1 }'
}

row_first() { read_rate; }

row_again() {
    read_rate >/dev/null
    read_rate
}

row_hole() { read_rate; }

random_rate() {
    fio --name=random --filename="$file" --readonly --rw=randread --bs=4k --ioengine=psync --thread \
        --numjobs="$1" --time_based --runtime="$fio_seconds" --group_reporting --norandommap \
        --minimal --terse-version=3 2>>"$work/fio.log" | cut -d';' -f8
}

row_random1() { random_rate 1; }
row_random16() { random_rate 16; }

# Each of these prints -, where the system does not let it be done.
measured() {
    "$bin/measure" "$@" 2>>"$work/measure.log" || echo -
}

row_write() { measured write "$file" "$write_mib"; }
row_sync4k() { measured sync "$file" "$write_seconds"; }
row_write4k() { measured dribble "$file" "$((write_mib / 4))"; }
row_punch() { measured punch "$file" "$((write_mib / 4))"; }

# Another volume beside $file is needed, which a system that shows one file does not have.
row_inside() {
    [ -n "$beside" ] || { echo - && return; }
    measured inside "$beside/source" "$beside/target"
}

# Without a mount: `lacuna pull` and `push`, nbdcopy over TLS (which flushes at the end as lacuna does), `qemu-img
# convert` over NBD without TLS (which does not, as cp and rsync), and rsync over
# ssh; cp is the local one. The target is made anew each time.
row_pull() {
    local start
    rm -f "$work/copy"
    start=$(now)
    "pull_$1" sparse "$work/copy" >>"$work/transfers.log" 2>&1
    elapsed_since "$start"
    printf 'pull %s\t%s\n' "$1" "$(du --block-size=1M "$work/copy" | cut -f1)" >>"$work/copy-mib"
    rm -f "$work/copy"
}

# rsync and a copy without a map read all 8 TiB.
row_huge() {
    local start
    [ "$1" != sshfs ] || { echo - && return; }
    rm -f "$work/copy"
    start=$(now)
    "pull_$1" huge "$work/copy" >>"$work/transfers.log" 2>&1
    elapsed_since "$start"
    rm -f "$work/copy"
}

# Bytes both ways, in units of 10^6.
row_delta() {
    local bytes
    case $1 in lacuna | sshfs) ;; *) echo - && return ;; esac
    cp --sparse=auto --reflink=never "$volumes/sparse" "$work/copy"
    "$bin/measure" scribble "$work/copy" 1000
    if [ "$1" = lacuna ]; then
        bytes=$(LACUNA_STATE=$work/client "$bin/lacuna" pull --delta --json "$lacuna_at/sparse" "$work/copy" |
            sed 's/.*"wire_bytes":\([0-9]*\).*/\1/')
    else
        bytes=$(rsync_by_ssh --inplace --no-whole-file --ignore-times --stats "root@127.0.0.1:$volumes/sparse" "$work/copy" |
            sed -n 's/,//g; s/^Total bytes \(sent\|received\): //p' | awk "{ sum += \$1 } END { print sum }")
    fi
    cmp "$volumes/sparse" "$work/copy" >>"$work/transfers.log" 2>&1 || fail "the copy of $1 is not the volume"
    rm -f "$work/copy"
    awk -v bytes="$bytes" 'BEGIN { printf "%.3f\n", bytes / 1000000 }'
}

row_push() {
    local start
    rm -f "$volumes/pushed"
    cp --sparse=auto --reflink=never "$volumes/sparse" "$work/upload"
    sync -f "$work"
    start=$(now)
    "push_$1" "$work/upload" pushed >>"$work/transfers.log" 2>&1
    elapsed_since "$start"
    printf 'push %s\t%s\n' "$1" "$(du --block-size=1M "$volumes/pushed" | cut -f1)" >>"$work/copy-mib"
    rm -f "$volumes/pushed" "$work/upload"
}
