# fio: every block carries a checksum and is verified after all were written. Sourced by suites.sh.
#
# shellcheck shell=bash disable=SC2154 # variables of suites.sh

suite_fio() {
    local size=48M
    [ "$1" = short ] || size=2G
    start_mount
    verify buffered "$size" --ioengine=psync --bsrange=512-128k --bs_unaligned
    verify mapped "$size" --ioengine=mmap --bs=4k
    verify direct "$size" --ioengine=libaio --direct=1 --iodepth=16 --bs=16k
    verify synced 4M --ioengine=psync --bs=4k --fdatasync=8
    trimmed "$size"
    end_mount
    for name in buffered mapped direct synced; do
        cmp "$work/$name" "$work/served/$name" || fail "the server's file of $name differs"
    done
}

# verify NAME SIZE OPTIONS...: writes at random, then reads all of it and compares the checksums.
verify() {
    local name=$1 size=$2
    shift 2
    printf 'fio %s\n' "$name"
    fio --aux-path="$work" --name="$name" --filename="$work/mnt/$name" --size="$size" --rw=randwrite --verify=crc32c --verify_fatal=1 \
        --do_verify=1 --end_fsync=1 "$@" >"$work/output" 2>&1 || fail "fio $name"
    cp "$work/mnt/$name" "$work/$name"
}

# Trims all of a volume in random order: nothing of it takes space any more, and the server said so at once.
trimmed() {
    local taken
    printf 'fio trimmed\n'
    head -c "$(numfmt --from=iec "$1")" /dev/urandom >"$work/mnt/trimmed"
    fio --aux-path="$work" --name=trimmed --filename="$work/mnt/trimmed" --size="$1" --ioengine=falloc --rw=randtrim --bs=64k \
        >"$work/output" 2>&1 || fail "fio randtrim"
    taken=$(du --block-size=1K "$work/served/trimmed" | cut -f1)
    [ "$taken" -le 64 ] || fail "the trimmed volume takes $taken KiB at the server"
    cmp --bytes="$(numfmt --from=iec "$1")" "$work/mnt/trimmed" /dev/zero || fail "a trimmed byte is not zero"
}
