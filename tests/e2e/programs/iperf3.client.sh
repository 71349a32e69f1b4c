. "$PROGRAMS/lib.sh"
# Waits with iperf3 itself: a bare connection would be the server's next client, and it mixes up the two.
tries=0
until iperf3 -c "$HOST" -p "$PORT" -n 1K >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "nobody answers iperf3 on $HOST port $PORT"
    sleep 0.1
done
# Runs one test and asserts that the receiver counted bytes.
run() {
    tries=0
    until iperf3 -c "$HOST" -p "$PORT" --connect-timeout 5000 -J "$@" >"$WORK/iperf" 2>"$WORK/iperf.err" &&
        ! grep -q '"error"' "$WORK/iperf"; do
        # The server serves one test at a time: the last one may still be ending.
        tries=$((tries + 1))
        [ "$tries" -lt 10 ] || fail "iperf3 $*: $(grep error "$WORK/iperf" "$WORK/iperf.err")"
        sleep 0.3
    done
    python3 - "$WORK/iperf" "$*" <<'PY' || fail "iperf3 $*"
import json, sys
report = json.load(open(sys.argv[1]))
if "error" in report:
    sys.exit(report["error"])
end = report["end"]
total = end.get("sum_received") or end["sum"]
print(f"iperf3 {sys.argv[2]}: {total['bytes']} bytes, {total['bits_per_second'] / 1e9:.2f} Gbit/s")
sys.exit(0 if total["bytes"] > 0 else 1)
PY
}
run -t 2
run -t 2 -R
run -t 1 -P 4
run -t 1 -u -b 20M -l 1200
run -t 1 -u -b 20M -l 1200 -R
