#!/usr/bin/env bash
# Shows lacuna on this machine: serves a real sparse disk image, mounts it, copies it with cp, and prints what
# crossed the network. Installs what is missing from Debian, leaves nothing behind but the build.
#
# Usage: scripts/demo.sh   (as root; Rust and a C compiler are needed)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh

need_fuse
need_rust
need mkfs.ext4 e2fsprogs losetup mount findmnt util-linux fusermount3 fuse3

say "building"
cargo build --release --locked --quiet -p lacuna -p lacuna-server --bins
bin=$(realpath "${CARGO_TARGET_DIR:-target}")/release
work=$(mktemp -d)
server_pid=

finish() {
    local status=$?
    for mountpoint in "$work/mnt" "$work/fill"; do
        if findmnt --mountpoint "$mountpoint" >/dev/null; then
            umount --lazy "$mountpoint"
        fi
    done
    if [ -n "$server_pid" ]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
    [ "$status" = 0 ] || printf '\ndemo.sh failed\n' >&2
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

mib() {
    awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'
}

say "a disk image of 2 GiB with a file system and some files in it"
mkdir "$work/volumes" "$work/fill" "$work/mnt"
image=$work/volumes/disk.img
truncate --size=2G "$image"
mkfs.ext4 -q -F "$image"
mount -o loop "$image" "$work/fill"
for number in $(seq 20); do
    head -c 1M /dev/urandom >"$work/fill/file-$number"
done
umount "$work/fill"
ls -lsh "$image"

say "serve it, admit the client, trust the server, mount"
export LACUNA_STATE=$work/client
key=$("$bin/lacuna" key | grep -o 'sha256:[0-9a-f]*')
"$bin/lacunad" serve "$work/volumes" --listen 127.0.0.1:0 --state "$work/server" >"$work/ready" 2>"$work/lacunad.log" &
server_pid=$!
deadline=$((SECONDS + 20))
until grep -q 'identity sha256:' "$work/ready"; do
    if [ $SECONDS -ge $deadline ] || ! kill -0 "$server_pid"; then
        fail "lacunad did not start: $(cat "$work/lacunad.log")"
    fi
    sleep 0.05
done
cat "$work/ready"
server=$(sed -n 's/.* on \(.*\), identity .*/\1/p' "$work/ready")
"$bin/lacunad" allow --state "$work/server" "$key"
"$bin/lacuna" trust "$server" "$(grep -o 'sha256:[0-9a-f]*' "$work/ready")"
"$bin/lacuna" mount "$server" "$work/mnt"
volume=$work/mnt/disk.img
ls -lsh "$volume"

"$bin/lacuna" map "$server/disk.img" >"$work/map"
say "its map: $(grep -c 'data$' "$work/map") extents of data; the first lines"
head -n 12 "$work/map"

say "cp --sparse=auto"
start=$(date +%s.%N)
cp --sparse=auto "$volume" "$work/copy.img"
seconds=$(awk -v start="$start" -v end="$(date +%s.%N)" 'BEGIN { printf "%.2f", end - start }')
ls -lsh "$work/copy.img"
received=$("$bin/lacuna" status "$work/mnt" --json | grep -o '"bytes_received": *[0-9]*' | grep -o '[0-9]*$')
printf '%s s; %s of 2048 MiB crossed the network\n' "$seconds" "$(mib "$received")"

say "the digests of the image, of the mounted volume and of the copy"
sha256sum "$image" "$volume" "$work/copy.img" | tee "$work/digests"
[ "$(cut -d' ' -f1 "$work/digests" | sort -u | wc -l)" = 1 ] || fail "the digests differ"

say "unmount"
"$bin/lacuna" umount "$work/mnt"
if findmnt --mountpoint "$work/mnt"; then
    fail "still mounted"
fi
echo "done"
