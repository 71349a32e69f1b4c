. "$PROGRAMS/lib.sh"
wait_port
exec python3 "$PROGRAMS/echo500.py" connect
