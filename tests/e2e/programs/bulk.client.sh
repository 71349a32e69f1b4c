. "$PROGRAMS/lib.sh"
wait_port
want=$(python3 "$PROGRAMS/bulk.py" print | sha256sum)
got=$(curl -gsS --max-time 100 "http://$URLHOST:$PORT/" -w '%{stderr}%{size_download} bytes, %{speed_download} bytes/s\n' | sha256sum)
[ "$got" = "$want" ] || fail "1 GiB over curl: expected $want, saw $got"
# And the other way: curl sends it, the server answers with what it got.
got=$(python3 "$PROGRAMS/bulk.py" print | curl -gsS --max-time 100 -T - "http://$URLHOST:$PORT/" -H 'Expect:')
[ "$got  -" = "$want" ] || fail "1 GiB sent by curl: expected $want, saw $got"
