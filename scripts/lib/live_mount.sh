# A server and a writable mount of it, for scripts that run other people's programs on it.
#
# The script sets $bin (the folder of the commands) and $work (an empty folder) first. Sourced by the others.
#
# shellcheck shell=bash disable=SC2154 # $bin and $work come from the script

# start_mount [OPTIONS]: serves $work/served and mounts it on $work/mnt.
start_mount() {
    local deadline=$((SECONDS + 20)) server client at
    mkdir -p "$work/served" "$work/mnt" "$work/server" "$work/client"
    client=$(LACUNA_STATE=$work/client "$bin/lacuna" key | grep -o 'sha256:[0-9a-f]*')
    "$bin/lacunad" serve "$work/served" --listen 127.0.0.1:0 --state "$work/server" \
        >"$work/lacunad.out" 2>"$work/lacunad.log" &
    server_pid=$!
    until grep -q 'identity sha256:' "$work/lacunad.out"; do
        [ $SECONDS -lt $deadline ] || fail "lacunad did not start: $(cat "$work/lacunad.log")"
        sleep 0.05
    done
    at=$(sed -n 's/.* on \(.*\), identity .*/\1/p' "$work/lacunad.out")
    server=$(grep -o 'sha256:[0-9a-f]*' "$work/lacunad.out")
    LACUNA_STATE=$work/server "$bin/lacunad" allow "$client" >/dev/null
    LACUNA_STATE=$work/client "$bin/lacuna" trust "$at" "$server" >/dev/null
    LACUNA_STATE=$work/client "$bin/lacuna" mount "$at" "$work/mnt" ${1:+-o "$1"}
}

# Unmounting drains: a failure is a loss, and is one of the suite.
end_mount() {
    LACUNA_STATE=$work/client "$bin/lacuna" umount "$work/mnt"
    kill "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

# Called by a trap, whatever has happened: nothing here may stop it.
abandon_mount() {
    local mounted
    while read -r mounted; do
        case $mounted in "$work"/*) umount --lazy "$mounted" || true ;; esac
    done < <(findmnt --noheadings --list --output TARGET | sort -r)
    if [ -n "${server_pid:-}" ]; then
        kill -9 "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
}
