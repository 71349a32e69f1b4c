. "$PROGRAMS/lib.sh"
# The other side may still be starting.
tries=0
until ping -n -c 1 -W 1 "$HOST" >"$WORK/ping" 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || fail "ping: $(cat "$WORK/ping")"
    sleep 0.2
done
ping -n -c 5 -i 0.2 -W 2 "$HOST" >"$WORK/ping" 2>&1 || fail "ping: $(cat "$WORK/ping")"
grep -q ' 0% packet loss' "$WORK/ping" || fail "ping: $(cat "$WORK/ping")"
ping -n -c 3 -i 0.2 -W 2 -s 1400 "$HOST" >"$WORK/ping" 2>&1 || fail "ping of 1400 bytes: $(cat "$WORK/ping")"
