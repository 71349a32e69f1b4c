# A shell's own sockets.
set -eu
exec 3<>"/dev/tcp/$HOST/$PORT"
for number in 1 2 3; do
    echo "line $number" >&3
    read -r -t 10 line <&3
    [ "$line" = "line $number" ] || { echo "FAIL expected line $number, saw $line"; exit 1; }
done
# A subshell writes to the socket that it inherited.
(echo "from a subshell" >&3)
read -r -t 10 line <&3
[ "$line" = "from a subshell" ] || { echo "FAIL from a subshell: $line"; exit 1; }
exec 3>&-
