. "$PROGRAMS/lib.sh"
wait_port
exec bash "$PROGRAMS/devtcp.bash"
