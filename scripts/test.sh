#!/usr/bin/env bash
# Everything that must hold, as CI runs it: format, lints, builds without features, all tests, instructions of hot paths,
# documentation, dependencies, fuzz targets. Root and /dev/fuse are needed, for the tests mount file systems.
#
# Usage: scripts/test.sh
#
# Installs what is missing from Debian. All cargo steps share one profile, so that nothing is built twice.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh

profile=test-fast
started=$SECONDS

step() {
    say "$* ($((SECONDS - started)) s)"
}

need_fuse
need_rust
need fusermount3 fuse3 mkfs.ext4 e2fsprogs mkfs.xfs xfsprogs mkfs.btrfs btrfs-progs rsync rsync \
    qemu-img qemu-utils qemu-io qemu-utils parted parted losetup mount unshare util-linux setpriv util-linux perl perl-base \
    xfs_repair xfsprogs btrfs btrfs-progs sqlite3 sqlite3 fstrim util-linux blkdiscard util-linux \
    fio fio stress-ng stress-ng ip iproute2 nsenter util-linux
has_cargo() {
    cargo "$1" --version >/dev/null 2>&1
}

export RUSTFLAGS="${RUSTFLAGS:-} -D warnings"
export RUST_LIB_BACKTRACE=0
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
work=$(realpath "$target")/lacuna-tests

# Whatever a killed test left behind is taken away, and is a failure of its own.
check_nothing_left() {
    local status=$? left=0 mounted device
    while read -r mounted; do
        case $mounted in
            "$work"/*)
                printf 'left mounted: %s\n' "$(findmnt --noheadings --mountpoint "$mounted")" >&2
                umount --lazy "$mounted" || true
                left=1
                ;;
        esac
    done < <(findmnt --noheadings --list --output TARGET | sort -r)
    while read -r device _; do
        printf 'left attached: %s\n' "$device" >&2
        losetup --detach "$device" || true
        left=1
    done < <(losetup --list --noheadings --output NAME,BACK-FILE | grep -F " $work/" || true)
    rm -rf --one-file-system "$work"/run-*
    [ "$status" = 0 ] && [ "$left" = 1 ] && status=1
    [ "$status" = 0 ] || printf '\n== FAILED after %s s\n' "$((SECONDS - started))" >&2
    exit "$status"
}
trap check_nothing_left EXIT
trap 'exit 130' INT TERM

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --profile $profile --workspace --all-targets --features lacuna-tests/long,lacuna-tests/limits --locked --quiet

step "builds without features"
cargo check --profile $profile -p lacuna-transport --no-default-features --locked --quiet
cargo check --profile $profile -p lacuna --no-default-features --locked --quiet

step "scripts"
if command -v shellcheck >/dev/null 2>&1; then
    shellcheck --external-sources scripts/*.sh scripts/bench/*.sh scripts/suites/*.sh .ci/run
else
    bash -n scripts/*.sh scripts/*/*.sh .ci/run
fi

step "build"
cargo build --profile $profile --workspace --all-targets --locked --quiet

step "units"
if command -v systemd-analyze >/dev/null 2>&1; then
    # Verified with the commands that were just built; the numbers are exposure, 100 being all of it.
    units=$(mktemp -d)
    for unit in contrib/systemd/*.service; do
        copy=$(basename "$unit")
        sed "s|/usr/bin/|$(realpath "$target")/$profile/|" "$unit" >"$units/${copy/@/@name}"
    done
    systemd-analyze verify --man=no "$units"/*.service
    systemd-analyze security --offline=true --no-pager --threshold=30 "$units/lacunad.service" >/dev/null
    systemd-analyze security --offline=true --no-pager --threshold=65 "$units/lacuna@name.service" >/dev/null
    rm -r "$units"
else
    printf 'SKIPPED: there is no systemd-analyze (package systemd)\n' >&2
fi

step "tests"
if has_cargo nextest; then
    cargo nextest run --cargo-profile $profile --workspace --locked
else
    cargo test --profile $profile --workspace --all-targets --locked --quiet -- --test-threads=2
fi
cargo test --profile $profile --workspace --doc --locked --quiet

step "instructions"
scripts/instructions.sh --profile $profile

step "suites of others"
LACUNA_BIN_DIR="$(realpath "$target")/$profile" scripts/suites.sh short

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --profile $profile --workspace --no-deps --locked --quiet

step "dependencies"
if has_cargo deny; then
    cargo deny --locked check bans licenses sources
    # The advisories come from a database on the network.
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --locked check advisories
    else
        printf 'SKIPPED: the database of advisories cannot be reached\n' >&2
    fi
else
    printf 'SKIPPED: cargo-deny is not installed (cargo install --locked cargo-deny)\n' >&2
fi

step "fuzz targets"
if [ -d fuzz ]; then
    scripts/fuzz.sh 5
else
    printf 'SKIPPED: there are no fuzz targets\n' >&2
fi

step "all passed"
