# Runs a program's server and client together: `both.sh NAME`.
set -u
sh "$PROGRAMS/$1.server.sh" >"$WORK/server.log" 2>&1 &
server=$!
status=0
sh "$PROGRAMS/$1.client.sh" || status=$?
kill "$server" 2>/dev/null
wait "$server" 2>/dev/null
if [ "$status" != 0 ]; then
    echo "the server printed:"
    tail -n 15 "$WORK/server.log"
fi
exit "$status"
