# The systems that bench.sh compares: each mounts the volumes of $volumes and says where a volume appears.
#
# For each SYSTEM: start_SYSTEM (its server, once for each condition; sets ${servers[SYSTEM]}, the processes of it),
# mount_SYSTEM VOLUME (sets $file, $beside to the folder of other volumes if it shows one, and $clients, the processes that
# serve the mount), unmount_SYSTEM. With $writable set, the mount is for writing.
# Servers run behind $on_server and listen at $server_ip, clients run behind $on_client: nothing and loopback, or
# the two sides of a link.
#
# The limits of the machine are systems too: `null`, a FUSE file system that does nothing, `handoff`, the same with reads that are answered by
# another thread, and `quic`, a bare transfer.
# Sourced by bench.sh, which owns $work, $volumes and $bin.
#
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with bench.sh

pids=()
declare -A servers=()

# Waits until the rest of the words, as a command, succeeds.
await() {
    local deadline=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "timed out: $*"
        sleep 0.05
    done
}

port_answers() {
    # shellcheck disable=SC2016 # the inner shell expands these
    "${on_server[@]}" bash -c '(exec 3<>"/dev/tcp/$0/$1") 2>/dev/null' "$server_ip" "$1"
}

free_port() {
    "${on_server[@]}" "$bin/measure" port
}

ended() {
    ! kill -0 "$1" 2>/dev/null
}

# A client whose mount is gone ends by itself, or is ended.
await_end() {
    local deadline=$((SECONDS + 20))
    until ended "$1"; do
        if [ $SECONDS -ge $deadline ]; then
            kill -9 "$1" 2>/dev/null || true
            return
        fi
        sleep 0.02
    done
}

# take_away MOUNTPOINT COMMAND...: unmounts by the command. Whoever was stopped in the middle of a read may keep the mount busy
# for as long as that read takes.
take_away() {
    local mounted=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >>"$work/umount.log" 2>&1; do
        is_mounted "$mounted" || return 0
        if [ $SECONDS -ge $deadline ]; then
            umount --lazy "$mounted" || true
            return
        fi
        sleep 0.1
    done
}

is_mounted() {
    findmnt --mountpoint "$1" >/dev/null
}

start_local() { :; }
mount_local() { file=$volumes/$1 beside=$volumes clients=(); }
unmount_local() { :; }

start_null() { :; }

# mount_null VOLUME [WORD]...
mount_null() {
    rm -f "$work/null.out"
    "$bin/null_fuse" "$work/mnt" "$1" "$volumes/$1" "${@:2}" >"$work/null.out" 2>>"$work/null.log" &
    client_pid=$!
    pids+=("$client_pid")
    await grep -q ready "$work/null.out"
    file=$work/mnt/$1
    clients=("$client_pid")
}

unmount_null() {
    take_away "$work/mnt" umount "$work/mnt"
    await_end "$client_pid"
    # What had to be killed leaves a dead mount.
    ! is_mounted "$work/mnt" || umount --lazy "$work/mnt"
}

start_handoff() { :; }
mount_handoff() { mount_null "$1" handoff; }
unmount_handoff() { unmount_null; }

start_quic() {
    "${on_server[@]}" "$bin/bare_quic" serve "$server_ip:0" >"$work/quic.out" 2>"$work/quic.log" &
    pids+=($!)
    servers[quic]=$!
    await grep -q sha256 "$work/quic.out"
    read -r -a quic_at <"$work/quic.out"
}

mount_quic() { file='' clients=(); }
unmount_quic() { :; }

# start_lacuna [OPTION]...
start_lacuna() {
    "${on_server[@]}" "$bin/lacunad" serve "$volumes" --listen "$server_ip:0" --state "$work/server" "$@" \
        >"$work/lacunad.out" 2>"$work/lacunad.log" &
    pids+=($!)
    servers[lacuna]=$!
    await grep -q 'identity sha256:' "$work/lacunad.out"
    lacuna_at=$(sed -n 's/.* on \(.*\), identity .*/\1/p' "$work/lacunad.out")
    admit_lacuna "$work/client"
}

# Makes a client, which has this state folder, and the server known to each other.
admit_lacuna() {
    local key
    key=$(LACUNA_STATE=$1 "$bin/lacuna" key | grep -o 'sha256:[0-9a-f]*')
    LACUNA_STATE=$work/server "$bin/lacunad" allow "$key" >/dev/null
    LACUNA_STATE=$1 "$bin/lacuna" trust "$lacuna_at" "$(grep -o 'sha256:[0-9a-f]*' "$work/lacunad.out")" >/dev/null
}

# lacuna_of STATE WORD...: the command of one client.
lacuna_of() {
    local state=$1
    shift
    "${on_client[@]}" env LACUNA_STATE="$state" "$bin/lacuna" "$@"
}

lacuna_here() {
    lacuna_of "$work/client" "$@"
}

mount_lacuna() {
    lacuna_here mount "$lacuna_at" "$work/mnt"
    file=$work/mnt/$1
    beside=$work/mnt
    clients=("$(lacuna_here status "$work/mnt" --json | grep -o '"pid": *[0-9]*' | grep -o '[0-9]*')")
}

unmount_lacuna() {
    take_away "$work/mnt" lacuna_here umount "$work/mnt"
}

# One certificate authority and one key pair, for nbdkit and both of its clients.
make_certificates() {
    local certs=$work/certs
    mkdir "$certs"
    printf 'cn = bench\nca\ncert_signing_key\n' >"$certs/ca.info"
    printf 'cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\nip_address = %s\ntls_www_server\ntls_www_client\nsigning_key\nencryption_key\n' \
        "$server_ip" >"$certs/peer.info"
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
    nbdkits=
    make_certificates
    nbd_port=$(free_port)
    serve_nbd "$nbd_port" --readonly
    nbd_port_writable=$(free_port)
    serve_nbd "$nbd_port_writable"
    nbd_port_plain=$(free_port)
    serve_nbd "$nbd_port_plain" --tls=off
}

# serve_nbd PORT [OPTION]...
serve_nbd() {
    local port=$1
    shift
    "${on_server[@]}" nbdkit --foreground --ipaddr "$server_ip" --port "$port" --tls=require --tls-certificates="$work/certs" \
        "$@" file dir="$volumes" >>"$work/nbdkit.log" 2>&1 &
    pids+=($!)
    nbdkits="$nbdkits $!"
    await port_answers "$port"
}

# nbdfuse takes certificates from /etc/pki/libnbd only. It gets an /etc of its own, in a mount namespace whose
# mounts below $work appear outside as well.
start_nbdfuse() {
    start_nbdkit
    servers[nbdfuse]=$nbdkits
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
    "${on_client[@]}" unshare --mount --propagation unchanged sh -c \
        'mount --make-private / && mount --bind "$1/etc" /etc && shift && exec nbdfuse "$@"' sh "$work" \
        "${mode[@]}" -P "$work/nbdfuse.pid" "$work/mnt/$1" "nbds://$server_ip:$port/$1" \
        >>"$work/nbdfuse.log" 2>&1 &
    client_pid=$!
    pids+=("$client_pid")
    await test -s "$work/nbdfuse.pid"
    file=$work/mnt/$1
    clients=("$client_pid")
}

unmount_nbdfuse() {
    take_away "$work/mnt" umount "$work/mnt"
    await_end "$client_pid"
}

start_qemu() {
    start_nbdkit
    servers[qemu]=$nbdkits
}

mount_qemu() {
    local port=$nbd_port read_only=on
    [ -z "$writable" ] || port=$nbd_port_writable read_only=off
    local for_writing=off
    [ "$read_only" = on ] || for_writing=on
    file=$work/qemu-export
    touch "$file"
    rm -f "$work/qsd.pid"
    "${on_client[@]}" qemu-storage-daemon --pidfile "$work/qsd.pid" \
        --object "tls-creds-x509,id=tls,dir=$work/certs,endpoint=client" \
        --blockdev "driver=nbd,node-name=remote,server.type=inet,server.host=$server_ip,server.port=$port,export=$1,tls-creds=tls,read-only=$read_only,discard=unmap" \
        --export "type=fuse,id=fuse,node-name=remote,mountpoint=$file,writable=$for_writing" >>"$work/qsd.log" 2>&1 &
    client_pid=$!
    pids+=("$client_pid")
    await is_mounted "$file"
    clients=("$client_pid")
}

unmount_qemu() {
    kill "$client_pid"
    await_end "$client_pid"
    ! is_mounted "$work/qemu-export" || umount "$work/qemu-export"
}

start_sshfs() {
    local etc=$work/sshd
    mkdir -p "$etc" /run/sshd
    chmod 755 /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$etc/host"
    ssh-keygen -q -t ed25519 -N '' -f "$etc/user"
    cp "$etc/user.pub" "$etc/authorized"
    ssh_port=$(free_port)
    cat >"$etc/config" <<END
ListenAddress $server_ip:$ssh_port
HostKey $etc/host
AuthorizedKeysFile $etc/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
END
    printf '[%s]:%s %s\n' "$server_ip" "$ssh_port" "$(cut -d' ' -f1,2 "$etc/host.pub")" >"$etc/known"
    "${on_server[@]}" "$(PATH="$PATH:/usr/sbin" command -v sshd)" -D -f "$etc/config" -E "$work/sshd.log" &
    pids+=($!)
    servers[sshfs]=$!
    await port_answers "$ssh_port"
}

mount_sshfs() {
    local access=ro
    [ -z "$writable" ] || access=rw
    "${on_client[@]}" sshfs -f -o "$access,port=$ssh_port,IdentityFile=$work/sshd/user,UserKnownHostsFile=$work/sshd/known" \
        "root@$server_ip:$volumes" "$work/mnt" >>"$work/sshfs.log" 2>&1 &
    client_pid=$!
    pids+=("$client_pid")
    await is_mounted "$work/mnt"
    file=$work/mnt/$1
    beside=$work/mnt
    clients=("$client_pid")
}

unmount_sshfs() {
    take_away "$work/mnt" umount "$work/mnt"
    await_end "$client_pid"
}

# pull_SYSTEM VOLUME FILE and push_SYSTEM FILE VOLUME set $transfer, the command that moves a volume with what the system
# has for that. The new volume has its size before, where the command needs that.

pull_local() { transfer=(cp --sparse=auto "$volumes/$1" "$2"); }
push_local() { transfer=(cp --sparse=auto "$1" "$volumes/$2"); }

pull_lacuna() {
    transfer=("${on_client[@]}" env "LACUNA_STATE=$work/client" "$bin/lacuna" pull "$lacuna_at/$1" "$2")
}
push_lacuna() {
    transfer=("${on_client[@]}" env "LACUNA_STATE=$work/client" "$bin/lacuna" push "$1" "$lacuna_at/$2")
}

nbds() {
    printf 'nbds://%s:%s/%s?tls-certificates=%s' "$server_ip" "$1" "$2" "$work/certs"
}

pull_nbdfuse() {
    truncate -s "$(stat -c %s "$volumes/$1")" "$2"
    transfer=("${on_client[@]}" nbdcopy --destination-is-zero --flush "$(nbds "$nbd_port" "$1")" "$2")
}

push_nbdfuse() {
    truncate -s "$(stat -c %s "$1")" "$volumes/$2"
    transfer=("${on_client[@]}" nbdcopy --destination-is-zero --flush "$1" "$(nbds "$nbd_port_writable" "$2")")
}

pull_qemu() {
    transfer=("${on_client[@]}" qemu-img convert -f raw -O raw "nbd://$server_ip:$nbd_port_plain/$1" "$2")
}

push_qemu() {
    truncate -s "$(stat -c %s "$1")" "$volumes/$2"
    transfer=("${on_client[@]}" qemu-img convert -n --target-is-zero -f raw -O raw "$1" "nbd://$server_ip:$nbd_port_plain/$2")
}

rsync_by_ssh() {
    transfer=("${on_client[@]}" rsync --sparse
        -e "ssh -p $ssh_port -i $work/sshd/user -o UserKnownHostsFile=$work/sshd/known" "$@")
}

pull_sshfs() { rsync_by_ssh "root@$server_ip:$volumes/$1" "$2"; }
push_sshfs() { rsync_by_ssh "$1" "root@$server_ip:$volumes/$2"; }

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
    pids=()
    servers=()
    nbd_port=
}
