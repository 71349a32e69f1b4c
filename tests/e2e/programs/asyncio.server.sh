exec python3 "$PROGRAMS/echo500.py" serve
