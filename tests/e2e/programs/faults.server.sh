exec python3 "$PROGRAMS/peer.py" misbehave
