# pjdfstest: what POSIX says of each call on names and attributes. Sourced by suites.sh.
#
# What cannot pass or is not run is listed in pjdfstest.list, each group with its reason.
#
# shellcheck shell=bash disable=SC2154 # variables of suites.sh

suite_pjdfstest() {
    need_crate pjdfstest 0.2.2
    start_mount
    # The tests of other users need to reach the folder they work in.
    chmod 755 "$work" "$work/mnt"
    mkdir "$work/mnt/tests" "$work/elsewhere"
    chmod 777 "$work/mnt/tests" "$work/elsewhere"
    # Its exit code says that something failed, which it must.
    "$tools/bin/pjdfstest" -c scripts/suites/pjdfstest.toml -p "$work/mnt/tests" -s "$work/elsewhere" \
        >"$work/output" 2>&1 || true
    awk '$2 == "FAILED" { print "failed " $1 } $2 == "skipped" { print "skipped " $1 }' "$work/output" >"$work/left"
    grep -v '^#' scripts/suites/pjdfstest.list >"$work/known"
    grep '^Summary' "$work/output" || fail "pjdfstest did not reach its end"
    if grep -vE -f "$work/known" "$work/left"; then
        fail "pjdfstest: these are not in scripts/suites/pjdfstest.list"
    fi
    while read -r pattern; do
        grep -qE -- "$pattern" "$work/left" || fail "pjdfstest: nothing fails that matches $pattern any more"
    done <"$work/known"
    # Each of them for the reason that the list gives; a socket's path has 108 bytes, and may not fit.
    awk '$2 == "FAILED" { name = $1; next } name != "" && /called|assertion/ { sub(/^[ \t]+/, ""); print name, $0; name = "" }' \
        "$work/output" >"$work/reasons"
    if grep -vE 'EPERM|Operation not permitted|^(link|symlink|mkfifo|mknod)::[^ ]+ assertion failed: (f|[a-z]+)\(' \
        "$work/reasons" | grep -vE '^[^ ]+::socket(_error)? called .*ENAMETOOLONG$'; then
        fail "pjdfstest: these failed otherwise than by EPERM"
    fi
    [ "$(awk '$2 == "ok"' "$work/output" | wc -l)" -ge 150 ] || fail "pjdfstest ran hardly any test"
    rm -r "$work/mnt/tests"
    end_mount
}
