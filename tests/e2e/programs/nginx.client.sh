. "$PROGRAMS/lib.sh"
wait_port
url="http://$URLHOST:$PORT"
want=$(head -c 100000 /dev/zero | tr '\0' 'n' | sha256sum)
[ "$(curl -gsS --max-time 10 "$url/page" | sha256sum)" = "$want" ] || fail "curl"
# Ten requests over one connection.
set --
for _ in 1 2 3 4 5 6 7 8 9 10; do set -- "$@" -o /dev/null "$url/page"; done
count=$(curl -gsS --max-time 20 -w '%{http_code} %{num_connects}\n' "$@" | sort | uniq -c | tr -s ' ')
[ "$count" = " 9 200 0
 1 200 1" ] || fail "keep-alive: $count"
[ "$(curl -gsS --max-time 10 -o /dev/null -w '%{http_code}' "$url/missing")" = 404 ] || fail "404"
wrk -t 2 -c 50 -d 2s --timeout 5s "$url/page" >"$WORK/wrk" 2>&1 || fail "wrk: $(cat "$WORK/wrk")"
grep 'Requests/sec' "$WORK/wrk" || fail "wrk: $(cat "$WORK/wrk")"
! grep -E 'Socket errors|Non-2xx' "$WORK/wrk" || fail "wrk: $(cat "$WORK/wrk")"
