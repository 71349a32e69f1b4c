. "$PROGRAMS/lib.sh"
wait_port
exec "$BIN/goweb" fetch "$HOST" "$PORT"
