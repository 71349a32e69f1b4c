# Takes a file and gives a small one over the same connection, and then says on the next port what it got. Debian's nc
# ends a listener with the end of its input, whatever it has left to send: what it gives fits into a buffer.
family=-4
case "$BIND" in *:*) family=-6 ;; esac
trap 'kill $! 2>/dev/null; wait $!; exit 0' TERM
head -c 100000 /dev/zero | tr '\0' 'n' >"$WORK/given"
nc $family -l -N "$BIND" "$PORT" <"$WORK/given" >"$WORK/taken" &
wait $!
sha256sum <"$WORK/taken" >"$WORK/sum"
nc $family -l -N "$BIND" "$((PORT + 1))" <"$WORK/sum" >"$WORK/nothing" &
wait $!
# One datagram, answered with one.
echo answer | nc $family -u -l -W 1 "$BIND" "$((PORT + 2))" >"$WORK/datagram" &
wait $!
# Until it is told to end, with no child to leave behind.
exec sleep 5
