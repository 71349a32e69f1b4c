. "$PROGRAMS/lib.sh"
wait_port
cp "$KEYS/user" "$WORK/identity"
chmod 600 "$WORK/identity"
user=$(id -un)
run() {
    timeout 30 ssh -F none -i "$WORK/identity" -p "$PORT" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR "$user@$HOST" "$@"
}
[ "$(run 'echo from the other side')" = "from the other side" ] || fail "a command over ssh"
status=0
run 'exit 42' || status=$?
[ "$status" = 42 ] || fail "exit status over ssh: expected 42, saw $status"
want=$(head -c 3000000 /dev/zero | tr '\0' 's' | sha256sum)
got=$(head -c 3000000 /dev/zero | tr '\0' 's' | run sha256sum)
[ "$got" = "$want" ] || fail "3 MB over ssh: $got"
got=$(run 'head -c 3000000 /dev/zero' | wc -c)
[ "$got" = 3000000 ] || fail "3 MB back over ssh: $got"
