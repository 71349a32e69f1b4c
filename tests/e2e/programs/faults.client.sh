. "$PROGRAMS/lib.sh"
wait_port
python3 "$PROGRAMS/peer.py" faults
[ -z "${BLACKHOLE:-}" ] || {
    status=0
    case "$BLACKHOLE" in *:*) url="http://[$BLACKHOLE]:$PORT" ;; *) url="http://$BLACKHOLE:$PORT" ;; esac
    curl -gsS --connect-timeout 1 "$url" 2>"$WORK/curl" || status=$?
    [ "$status" = 28 ] || fail "curl --connect-timeout: expected status 28, saw $status: $(cat "$WORK/curl")"
}
status=0
curl -gsS --connect-timeout 5 "http://$URLHOST:$((PORT + 9))" 2>"$WORK/curl" || status=$?
[ "$status" = 7 ] || fail "curl of a closed port: expected status 7, saw $status: $(cat "$WORK/curl")"
