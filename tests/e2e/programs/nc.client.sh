. "$PROGRAMS/lib.sh"
head -c 5000000 /dev/urandom >"$WORK/random"
# Connects as soon as the server is there; asking first would use its one connection up.
talk() {
    tries=0
    until nc -N -w 20 "$HOST" "$1" 2>/dev/null <"$2"; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || fail "nobody listens on $HOST port $1"
        sleep 0.1
    done
}
got=$(talk "$PORT" "$WORK/random" | sha256sum)
want=$(head -c 100000 /dev/zero | tr '\0' 'n' | sha256sum)
[ "$got" = "$want" ] || fail "from nc: expected $want, saw $got"
got=$(talk "$((PORT + 1))" /dev/null)
[ "$got" = "$(sha256sum <"$WORK/random")" ] || fail "to nc: saw $got"
got=""
tries=0
until [ "$got" = answer ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || fail "no answer over UDP"
    got=$(echo question | nc -u -w 1 -W 1 "$HOST" "$((PORT + 2))" 2>/dev/null) || true
done
