#!/bin/sh
# The stack in the shared object $1: the conformance suite, and unchanged programs. Needs redis-server,
# redis-cli, python3 and curl.
set -eu
netgraft=${NETGRAFT:-@netgraft@}
object=$1
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
# Root's programs have another user id on the host (nobody), and write here, too.
chmod 777 "$files"

# The stack carries the connections, though both of their ends are in the sandbox.
on_it() {
    $netgraft run --join never --network plugin --plugin "$object" -- sh -euc "$1"
}

fail() {
    echo "FAIL: $1" >&2
    exit 1
}

for program in redis-server redis-cli python3 curl; do
    command -v "$program" > "$files/found" || fail "$program is not installed"
done

$netgraft check --known known.toml "$object"

answer=$(on_it "
    redis-server --port 6379 --bind 127.0.0.1 --save '' --dir $files > $files/redis.log &
    for try in \$(seq 100); do redis-cli ping > $files/ping 2>&1 && break; sleep 0.1; done
    redis-cli set key value
    redis-cli get key
    redis-cli shutdown nosave
    wait")
[ "$answer" = "OK
value" ] || fail "redis says '$answer'"
echo 'ok: redis'

head -c 1000000 /dev/urandom > "$files/page"
on_it "
    python3 -m http.server --bind 127.0.0.1 --directory $files 8000 2> $files/http.log &
    server=\$!
    for try in \$(seq 100); do curl -m 60 -s -o $files/got http://127.0.0.1:8000/page && break; sleep 0.1; done
    kill \$server"
cmp "$files/page" "$files/got" || fail "http.server sends other bytes"
echo 'ok: http.server'
