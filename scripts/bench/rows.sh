# The rows of bench.sh: row_NAME SYSTEM prints a number; a number, `stopped` and how far it got when its time was up; or -
# and why, where the system cannot do it.
#
# Each is called with a fresh mount. $rows lists `NAME|VOLUME|UNIT|WHERE|TITLE`; WHERE is `local`, or `all` for rows that are
# measured over links as well. The volume `scratch` is one that the row may change: it is made afresh, and mounted
# writable; `none` is not mounted at all. Where a system that is a limit has its own way, it is row_NAME_SYSTEM.
# Sourced by bench.sh.
#
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with bench.sh

rows=(
    "copy|sparse|s|all|cp --sparse=auto of a sparse volume"
    "walk|extents|s|all|walk by SEEK_DATA and SEEK_HOLE"
    "map|extents|s|local|qemu-img map"
    "walk1m|million|s|local|walk of a million extents"
    "seek1k|thousand|us|local|one SEEK_DATA among a thousand extents"
    "seek1m|million|us|local|one SEEK_DATA among a million extents"
    "first|dense|MiB/s|all|sequential read, first time"
    "again|dense|MiB/s|local|sequential read, after reopening"
    "hole|hole|MiB/s|local|read of a hole"
    "random1|dense|1/s|all|random reads of 4 KiB, one at a time"
    "random16|dense|1/s|all|random reads of 4 KiB, 16 threads"
    "write|scratch|MiB/s|all|sequential write and fsync"
    "sync4k|scratch|1/s|local|writes of 4 KiB, fdatasync after each"
    "write4k|scratch|MiB/s|local|buffered writes of 4 KiB, then fsync"
    "punch|scratch|1/s|local|holes of 64 KiB punched into data"
    "inside|scratch|s|local|copy of a sparse volume within the mount"
    "pull|none|s|all|download of a sparse volume"
    "push|none|s|all|upload of a sparse volume"
    "huge|none|s|local|download of 8 TiB with 1.5 GB of data"
    "delta|none|MB|local|sent to update a copy, 1000 blocks of 4 KiB changed"
)

# Rows that read or write a whole GiB (or its part): their processor time is a row of its own.
declare -A moved=([first]="sequential read" [write]="sequential write")

# Rows that a limit has no way to do. cp makes holes of zeros, so a copy of what is all zeros writes nothing.
impossible_null=" copy inside pull push huge delta "
possible_quic=" first write random1 "
possible_handoff=" first random1 random16 "

now() {
    date +%s.%N
}

elapsed_since() {
    awk -v start="$1" -v end="$(now)" 'BEGIN { printf "%.6f\n", end - start }'
}

mib_of() {
    du --block-size=1M "$1" 2>/dev/null | cut -f1
}

# A copy that lost its holes is worth a line: note_copy NAME FIGURE COPY.
note_copy() {
    [[ "$2" == *stopped* || "$2" == -* ]] || printf '%s\t%s\n' "$1" "$(mib_of "$3")" >>"$work/copy-mib"
}

# timed TARGET COMMAND...: seconds of the command. If its time is up, it got as far as the target is large on disk.
timed() {
    local target=$1 start status=0
    shift
    start=$(now)
    timeout --kill-after=5 "$bound" "$@" >>"$work/commands.log" 2>&1 || status=$?
    case $status in
        0) elapsed_since "$start" ;;
        124 | 137) printf '%s stopped at %s MiB\n' "$bound" "$(mib_of "$target")" ;;
        *) printf -- '- %s\n' "$(tail -n 1 "$work/commands.log" | tr '\t' ' ')" ;;
    esac
}

# measured WORD...: what `measure` prints, or - and why the system does not let it be done. What hangs is ended.
measured() {
    local status=0
    timeout --kill-after=5 "$((2 * bound + 60))" "$bin/measure" "$@" 2>>"$work/measure.log" || status=$?
    case $status in
        0) ;;
        124 | 137) echo "- no end in $((2 * bound + 60)) s" ;;
        *) printf -- '- %s\n' "$(tail -n 1 "$work/measure.log" | tr '\t' ' ')" ;;
    esac
}

row_copy() {
    local figure
    rm -f "$work/copy"
    figure=$(timed "$work/copy" cp --sparse=auto "$file" "$work/copy")
    echo "$figure"
    note_copy "$1" "$figure" "$work/copy"
    rm -f "$work/copy"
}

# A file system without lseek says: one extent.
row_walk() {
    local extents figure
    read -r extents figure < <(measured walk "$file" "$bound")
    case $extents:$figure in
        -:*) echo "- $figure" ;;
        *stopped*) echo "$figure" ;;
        1:*) echo "- no lseek: one extent" ;;
        *) echo "$figure" ;;
    esac
}

row_walk1m() { row_walk; }

row_map() {
    local seconds
    # shellcheck disable=SC2016 # the inner shell expands these
    seconds=$(timed "$work/map.json" sh -c 'exec qemu-img map --output=json -f raw "$1" >"$2"' sh "$file" "$work/map.json")
    case $seconds in
        *stopped*) echo "$bound stopped at $(grep -c '"data": true' "$work/map.json") extents" ;;
        -*) echo "$seconds" ;;
        *) [ "$(grep -c '"data": true' "$work/map.json")" -gt 1 ] && echo "$seconds" || echo "- no lseek: one extent" ;;
    esac
}

row_seek1k() { seek_time; }
row_seek1m() { seek_time; }

seek_time() {
    local extents figure
    read -r extents figure < <(measured walk "$file" "$write_seconds")
    [ "$extents" != 1 ] || { echo "- no lseek: one extent" && return; }
    measured seeks "$file" "$write_seconds"
}

row_first() { measured read "$file" "$bound"; }
row_hole() { measured read "$file" "$bound"; }

row_again() {
    measured read "$file" "$bound" >/dev/null
    measured read "$file" "$bound"
}

# No block is read twice, so the client's caches are cold; the order is the same for all.
row_random1() { random_rate 1; }
row_random16() { random_rate 16; }

random_rate() {
    measured random "$file" "$1" "$random_seconds" 1 | awk '{ print $1 == "-" ? $0 : $1 }'
}

row_write() { measured write "$file" "$write_mib" "$bound"; }
row_sync4k() { measured sync "$file" "$write_seconds"; }
row_write4k() { measured dribble "$file" "$((write_mib / 4))" "$bound"; }
row_punch() { measured punch "$file" "$((write_mib / 4))" "$bound"; }

# Another volume beside $file is needed, which a system that shows one file does not have.
row_inside() {
    [ -n "$beside" ] || { echo "- it shows one file" && return; }
    measured inside "$beside/source" "$beside/target" "$bound"
}

# The bare transfer has no mount: it moves as much as the others, and says what its client used.
quic() {
    local what=$1
    shift
    timeout --kill-after=5 "$((2 * bound + 60))" "${on_client[@]}" "$bin/bare_quic" "$what" "${quic_at[@]}" "$@" 2>"$work/client-cpu"
}

row_first_quic() { quic receive "$write_mib" "$bound"; }
row_write_quic() { quic send "$write_mib" "$bound"; }
row_random1_quic() { quic ask "$random_seconds"; }

# Without a mount: `lacuna pull` and `push`, nbdcopy over TLS (which flushes at the end as lacuna does), `qemu-img
# convert` over NBD without TLS (which does not, as cp and rsync), and rsync over
# ssh; cp is the local one. The target is made anew each time.
row_pull() {
    local figure
    rm -f "$work/copy"
    "pull_$1" sparse "$work/copy"
    figure=$(timed "$work/copy" "${transfer[@]}")
    echo "$figure"
    note_copy "pull $1" "$figure" "$work/copy"
    rm -f "$work/copy"
}

# rsync and a copy without a map read all 8 TiB.
row_huge() {
    [ "$1" != sshfs ] || { echo "- rsync reads all of it" && return; }
    rm -f "$work/copy"
    "pull_$1" huge "$work/copy"
    timed "$work/copy" "${transfer[@]}"
    rm -f "$work/copy"
}

# Bytes both ways, in units of 10^6.
row_delta() {
    local bytes
    case $1 in lacuna | sshfs) ;; *) echo "- no such command" && return ;; esac
    cp --sparse=auto --reflink=never "$volumes/sparse" "$work/copy"
    "$bin/measure" scribble "$work/copy" 1000
    if [ "$1" = lacuna ]; then
        bytes=$(lacuna_here pull --delta --json "$lacuna_at/sparse" "$work/copy" |
            sed 's/.*"wire_bytes":\([0-9]*\).*/\1/')
    else
        rsync_by_ssh --inplace --no-whole-file --ignore-times --stats "root@$server_ip:$volumes/sparse" "$work/copy"
        bytes=$("${transfer[@]}" |
            sed -n 's/,//g; s/^Total bytes \(sent\|received\): //p' | awk "{ sum += \$1 } END { print sum }")
    fi
    cmp "$volumes/sparse" "$work/copy" >>"$work/commands.log" 2>&1 || fail "the copy of $1 is not the volume"
    rm -f "$work/copy"
    awk -v bytes="$bytes" 'BEGIN { printf "%.3f\n", bytes / 1000000 }'
}

row_push() {
    local figure
    rm -f "$volumes/pushed" "$work/upload"
    cp --sparse=auto --reflink=never "$volumes/sparse" "$work/upload"
    sync -f "$work"
    "push_$1" "$work/upload" pushed
    figure=$(timed "$volumes/pushed" "${transfer[@]}")
    echo "$figure"
    note_copy "push $1" "$figure" "$volumes/pushed"
    rm -f "$volumes/pushed" "$work/upload"
}
