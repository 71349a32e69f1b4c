exec iperf3 -s -B "$BIND" -p "$PORT"
