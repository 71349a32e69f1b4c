exec python3 "$PROGRAMS/bulk.py" serve
