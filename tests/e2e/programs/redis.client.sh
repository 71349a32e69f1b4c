. "$PROGRAMS/lib.sh"
wait_port
cli() { redis-cli -h "$HOST" -p "$PORT" "$@"; }
[ "$(cli ping)" = PONG ] || fail "ping"
[ "$(cli set key 'a value')" = OK ] || fail "set"
[ "$(cli get key)" = "a value" ] || fail "get"
[ "$(cli -r 100 incr counter | tail -n 1)" = 100 ] || fail "100 increments over one connection"
head -c 3000000 /dev/urandom | base64 -w 0 >"$WORK/big"
cli -x set big <"$WORK/big" >/dev/null
[ "$(cli get big | tr -d '\n' | sha256sum)" = "$(sha256sum <"$WORK/big" | sed 's/ .*/  -/')" ] || fail "a 4 MB value"
bench() {
    redis-benchmark -h "$HOST" -p "$PORT" -q "$@" >"$WORK/bench" 2>&1 || fail "redis-benchmark $*: $(cat "$WORK/bench")"
    tr '\r' '\n' <"$WORK/bench" | grep 'requests per second' || fail "redis-benchmark $*: $(cat "$WORK/bench")"
    ! grep -qi error "$WORK/bench" || fail "redis-benchmark $*: $(cat "$WORK/bench")"
}
bench -t set,get -n 20000 -c 50
bench -t set,get -n 100000 -c 50 -P 16
bench -t set,get -n 20000 -c 200
clients=$(cli info clients | tr -d '\r' | sed -n 's/^connected_clients://p')
[ "$clients" = 1 ] || { sleep 1; clients=$(cli info clients | tr -d '\r' | sed -n 's/^connected_clients://p'); }
[ "$clients" = 1 ] || fail "the server still counts $clients clients"
