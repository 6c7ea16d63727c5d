# stress-ng: its file stressors, one after the other, each checking what it can. Sourced by suites.sh.
#
# Left out are those of calls that volumes do not have (links, pipes, special files, extended attributes) and
# those that need no file system.
#
# shellcheck shell=bash disable=SC2154 # variables of suites.sh

stressors=(access aio chmod chown copy-file dentry dir dirdeep dup fallocate fcntl fiemap file-ioctl flock fpunch
    fstat getdent hdd iomix lease locka lockf lockofd mmap mmapfixed msync open readahead rename revio seek sendfile
    splice sync-file touch utime)

suite_stress() {
    local seconds=1 name
    [ "$1" = short ] || seconds=30
    start_mount
    mkdir "$work/mnt/stress"
    for name in "${stressors[@]}"; do
        printf '%s ' "$name"
        timeout --kill-after=10 $((seconds + 60)) stress-ng "--$name" 2 --timeout "$seconds" --verify \
            --temp-path "$work/mnt/stress" --oomable >"$work/output" 2>&1 || {
            printf '\n'
            fail "stress-ng --$name"
        }
        if grep -E 'fail:|skipped' "$work/output"; then
            printf '\n'
            fail "stress-ng --$name failed or was left out"
        fi
    done
    printf '\n'
    [ -z "$(ls -A "$work/mnt/stress")" ] || fail "stress-ng left files behind"
    end_mount
    [ -z "$(ls -A "$work/served/stress")" ] || fail "files are left at the server"
}
