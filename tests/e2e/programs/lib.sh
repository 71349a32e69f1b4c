# Included by the client scripts.
set -eu

fail() {
    echo "FAIL $*"
    exit 1
}

# Waits until the server accepts connections.
wait_port() {
    tries=0
    until nc -z -w 1 "$HOST" "${1:-$PORT}" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || fail "nobody listens on $HOST port ${1:-$PORT}"
        sleep 0.1
    done
}
