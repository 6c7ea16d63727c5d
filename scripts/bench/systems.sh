# The systems that bench.sh compares: each mounts the volumes of $volumes and says where a volume appears.
#
# For each SYSTEM: start_SYSTEM (its server, once), mount_SYSTEM VOLUME (sets $file, and $beside to the folder of other
# volumes if it shows one), unmount_SYSTEM. With $writable set, the mount is for writing.
# Sourced by bench.sh, which owns $work, $volumes and $bin. Every server listens on loopback only.
#
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with bench.sh

pids=()

# Waits until the rest of the words, as a command, succeeds.
await() {
    local deadline=$((SECONDS + 20))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "timed out: $*"
        sleep 0.05
    done
}

port_answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

ended() {
    ! kill -0 "$1" 2>/dev/null
}

is_mounted() {
    findmnt --mountpoint "$1" >/dev/null
}

start_local() { :; }
mount_local() { file=$volumes/$1 beside=$volumes; }
unmount_local() { :; }

start_lacuna() {
    LACUNA_STATE=$work/client "$bin/lacuna" key >"$work/client.key"
    "$bin/lacunad" serve "$volumes" --listen 127.0.0.1:0 --state "$work/server" \
        >"$work/lacunad.out" 2>"$work/lacunad.log" &
    pids+=($!)
    await grep -q 'identity sha256:' "$work/lacunad.out"
    lacuna_at=$(sed -n 's/.* on \(.*\), identity .*/\1/p' "$work/lacunad.out")
    LACUNA_STATE=$work/server "$bin/lacunad" allow "$(grep -o 'sha256:[0-9a-f]*' "$work/client.key")" >/dev/null
    LACUNA_STATE=$work/client "$bin/lacuna" trust "$lacuna_at" "$(grep -o 'sha256:[0-9a-f]*' "$work/lacunad.out")" >/dev/null
}

mount_lacuna() {
    LACUNA_STATE=$work/client "$bin/lacuna" mount "$lacuna_at" "$work/mnt"
    file=$work/mnt/$1
    beside=$work/mnt
}

unmount_lacuna() {
    LACUNA_STATE=$work/client "$bin/lacuna" umount "$work/mnt"
}

# One certificate authority and one key pair, for nbdkit and both of its clients.
make_certificates() {
    local certs=$work/certs
    mkdir "$certs"
    printf 'cn = bench\nca\ncert_signing_key\n' >"$certs/ca.info"
    printf 'cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\ntls_www_client\nsigning_key\nencryption_key\n' >"$certs/peer.info"
    {
        certtool --generate-privkey --outfile "$certs/ca-key.pem"
        certtool --generate-self-signed --load-privkey "$certs/ca-key.pem" --template "$certs/ca.info" \
            --outfile "$certs/ca-cert.pem"
        certtool --generate-privkey --outfile "$certs/server-key.pem"
        certtool --generate-certificate --load-privkey "$certs/server-key.pem" --template "$certs/peer.info" \
            --load-ca-certificate "$certs/ca-cert.pem" --load-ca-privkey "$certs/ca-key.pem" \
            --outfile "$certs/server-cert.pem"
    } 2>>"$work/certtool.log"
    cp "$certs/server-key.pem" "$certs/client-key.pem"
    cp "$certs/server-cert.pem" "$certs/client-cert.pem"
}

# nbdkit cannot choose a port itself, so it is given one that was free a moment ago. One for reading, one for writing, one
# without TLS.
start_nbdkit() {
    [ -z "${nbd_port:-}" ] || return 0
    make_certificates
    nbd_port=$("$bin/measure" port)
    serve_nbd "$nbd_port" --readonly
    nbd_port_writable=$("$bin/measure" port)
    serve_nbd "$nbd_port_writable"
    nbd_port_plain=$("$bin/measure" port)
    serve_nbd "$nbd_port_plain" --tls=off
}

# serve_nbd PORT [OPTION]...
serve_nbd() {
    local port=$1
    shift
    nbdkit --foreground --ipaddr 127.0.0.1 --port "$port" --tls=require --tls-certificates="$work/certs" \
        "$@" file dir="$volumes" >>"$work/nbdkit.log" 2>&1 &
    pids+=($!)
    await port_answers "$port"
}

# nbdfuse takes certificates from /etc/pki/libnbd only. It gets an /etc of its own, in a mount namespace whose
# mounts below $work appear outside as well.
start_nbdfuse() {
    start_nbdkit
    cp -a /etc "$work/etc"
    mkdir -p "$work/etc/pki"
    ln -s "$work/certs" "$work/etc/pki/libnbd"
    mount --bind "$work" "$work"
    mount --make-shared "$work"
}

mount_nbdfuse() {
    local port=$nbd_port mode=(--readonly)
    [ -z "$writable" ] || port=$nbd_port_writable mode=()
    rm -f "$work/nbdfuse.pid"
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --propagation unchanged sh -c \
        'mount --make-private / && mount --bind "$1/etc" /etc && shift && exec nbdfuse "$@"' sh "$work" \
        "${mode[@]}" -P "$work/nbdfuse.pid" "$work/mnt/$1" "nbds://localhost:$port/$1" \
        >>"$work/nbdfuse.log" 2>&1 &
    client_pid=$!
    pids+=("$client_pid")
    await test -s "$work/nbdfuse.pid"
    file=$work/mnt/$1
}

unmount_nbdfuse() {
    umount "$work/mnt"
    await ended "$client_pid"
}

start_qemu() { start_nbdkit; }

mount_qemu() {
    local port=$nbd_port read_only=on
    [ -z "$writable" ] || port=$nbd_port_writable read_only=off
    local for_writing=off
    [ "$read_only" = on ] || for_writing=on
    file=$work/qemu-export
    touch "$file"
    rm -f "$work/qsd.pid"
    qemu-storage-daemon --pidfile "$work/qsd.pid" \
        --object "tls-creds-x509,id=tls,dir=$work/certs,endpoint=client" \
        --blockdev "driver=nbd,node-name=remote,server.type=inet,server.host=localhost,server.port=$port,export=$1,tls-creds=tls,read-only=$read_only,discard=unmap" \
        --export "type=fuse,id=fuse,node-name=remote,mountpoint=$file,writable=$for_writing" >>"$work/qsd.log" 2>&1 &
    client_pid=$!
    pids+=("$client_pid")
    await is_mounted "$file"
}

unmount_qemu() {
    kill "$client_pid"
    await ended "$client_pid"
    ! is_mounted "$work/qemu-export" || umount "$work/qemu-export"
}

start_sshfs() {
    local etc=$work/sshd
    mkdir -p "$etc" /run/sshd
    chmod 755 /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$etc/host"
    ssh-keygen -q -t ed25519 -N '' -f "$etc/user"
    cp "$etc/user.pub" "$etc/authorized"
    ssh_port=$("$bin/measure" port)
    cat >"$etc/config" <<END
ListenAddress 127.0.0.1:$ssh_port
HostKey $etc/host
AuthorizedKeysFile $etc/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
END
    printf '[127.0.0.1]:%s %s\n' "$ssh_port" "$(cut -d' ' -f1,2 "$etc/host.pub")" >"$etc/known"
    "$(PATH="$PATH:/usr/sbin" command -v sshd)" -D -f "$etc/config" -E "$work/sshd.log" &
    pids+=($!)
    await port_answers "$ssh_port"
}

mount_sshfs() {
    local access=ro
    [ -z "$writable" ] || access=rw
    sshfs -o "$access,port=$ssh_port,IdentityFile=$work/sshd/user,UserKnownHostsFile=$work/sshd/known" \
        "root@127.0.0.1:$volumes" "$work/mnt"
    file=$work/mnt/$1
    beside=$work/mnt
}

unmount_sshfs() {
    umount "$work/mnt"
}

# pull_SYSTEM VOLUME FILE and push_SYSTEM FILE VOLUME move a volume with what the system has for that.

pull_local() { cp --sparse=auto "$volumes/$1" "$2"; }
push_local() { cp --sparse=auto "$1" "$volumes/$2"; }

pull_lacuna() { LACUNA_STATE=$work/client "$bin/lacuna" pull "$lacuna_at/$1" "$2"; }
push_lacuna() { LACUNA_STATE=$work/client "$bin/lacuna" push "$1" "$lacuna_at/$2"; }

nbds() {
    printf 'nbds://localhost:%s/%s?tls-certificates=%s' "$1" "$2" "$work/certs"
}

pull_nbdfuse() {
    truncate -s "$(stat -c %s "$volumes/$1")" "$2"
    nbdcopy --destination-is-zero --flush "$(nbds "$nbd_port" "$1")" "$2"
}

push_nbdfuse() {
    truncate -s "$(stat -c %s "$1")" "$volumes/$2"
    nbdcopy --destination-is-zero --flush "$1" "$(nbds "$nbd_port_writable" "$2")"
}

pull_qemu() { qemu-img convert -f raw -O raw "nbd://localhost:$nbd_port_plain/$1" "$2"; }

push_qemu() {
    truncate -s "$(stat -c %s "$1")" "$volumes/$2"
    qemu-img convert -n --target-is-zero -f raw -O raw "$1" "nbd://localhost:$nbd_port_plain/$2"
}

rsync_by_ssh() {
    rsync --sparse -e "ssh -p $ssh_port -i $work/sshd/user -o UserKnownHostsFile=$work/sshd/known" "$@"
}

pull_sshfs() { rsync_by_ssh "root@127.0.0.1:$volumes/$1" "$2"; }
push_sshfs() { rsync_by_ssh "$1" "root@127.0.0.1:$volumes/$2"; }

# Ends whatever is left, the mounts first; called by the trap of bench.sh, so nothing here may stop it.
stop_systems() {
    local pid mounted
    while read -r mounted; do
        case $mounted in "$work" | "$work"/*) umount --lazy "$mounted" || true ;; esac
    done < <(findmnt --noheadings --list --output TARGET | sort -r)
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
}
