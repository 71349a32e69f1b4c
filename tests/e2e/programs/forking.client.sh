. "$PROGRAMS/lib.sh"
wait_port
exec python3 "$PROGRAMS/peer.py" many
