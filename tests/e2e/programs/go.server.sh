exec "$BIN/goweb" serve "$BIND" "$PORT"
