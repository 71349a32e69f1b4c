exec python3 "$PROGRAMS/peer.py" echo
