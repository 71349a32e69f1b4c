. "$PROGRAMS/lib.sh"
wait_port
exec node "$PROGRAMS/web.js" fetch
