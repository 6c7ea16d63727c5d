# Installing what a script needs, sourced by the others.
#
# A command that is there is used, whatever package it came from; only then is Debian asked.
#
# shellcheck shell=bash

# need COMMAND PACKAGE [COMMAND PACKAGE]...
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        # mkfs and losetup lie in sbin, which an ordinary PATH may lack.
        PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "missing packages: ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# What mounting needs of the host, beyond packages.
need_fuse() {
    [ "$(id -u)" = 0 ] || fail "mounting needs root: run it as root"
    [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || fail "/dev/fuse is missing: modprobe fuse, or start the container with --device /dev/fuse"
}

need_rust() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    export PATH
    command -v cargo >/dev/null 2>&1 || fail "cargo is missing: install Rust from https://rustup.rs"
    command -v cc >/dev/null 2>&1 || need cc gcc
}
