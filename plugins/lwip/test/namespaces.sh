#!/bin/sh
# The stack in a network namespace of its own, on an AF_PACKET socket over a veth pair and on a TAP device, with
# the kernel on the other side. Needs root. MEGABYTES of each transfer over IPv4: 1024 unless set; over IPv6 an eighth.
#   namespaces.sh TEST-PROGRAM OBJECT
set -eu
test=$1 object=$2 each=${MEGABYTES:-1024}
a=ngl-a-$$ b=ngl-b-$$
out=$(mktemp)
kernel= stack=
cleanup() {
    [ -z "$stack" ] || kill -KILL "$stack" 2>/dev/null || true
    [ -z "$kernel" ] || kill "$kernel" 2>/dev/null || true
    ip netns del $a 2>/dev/null || true
    ip netns del $b 2>/dev/null || true
    rm -f "$out"
}
trap cleanup EXIT INT TERM
ip netns add $a
ip netns add $b
ip link add ng0 netns $a type veth peer name ng1 netns $b
ip -n $a link set lo up
ip -n $b link set lo up
# The kernel must not answer for the stack's side.
ip netns exec $a sysctl -q -w net.ipv6.conf.ng0.disable_ipv6=1
ip -n $a link set ng0 up
ip -n $b link set ng1 up
ip -n $b addr add 192.0.2.1/24 dev ng1
ip -n $b addr add fd00:2::1/64 dev ng1 nodad

# round NAMESPACE-OF-THE-KERNEL KIND INTERFACE STACK-ADDRESS PREFIX KERNEL-ADDRESS
round() {
    case $4 in *:*) megabytes=$(((each + 7) / 8)) ;; *) megabytes=$each ;; esac
    echo "$2, $4, $megabytes MiB"
    : >"$out"
    ip netns exec $a "$test" stack "$object" "$2" "$3" "$4" "$5" "$6" "$megabytes" >"$out" 2>&1 &
    stack=$!
    tries=0
    until grep -q ready "$out"; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] && kill -0 $stack 2>/dev/null || { cat "$out"; echo "the stack did not start"; exit 1; }
        sleep 0.2
    done
    if [ "$2" = tap ]; then
        ip -n $a addr replace 198.51.100.1/24 dev "$3"
        ip -n $a addr replace fd00:3::1/64 dev "$3" nodad
    fi
    ip netns exec "$1" "$test" kernel "$4" "$6" "$megabytes" &
    kernel=$!
    status=0
    # A stack that ends early leaves the kernel's side waiting.
    while kill -0 $kernel 2>/dev/null; do
        kill -0 $stack 2>/dev/null || { sleep 1; kill $kernel 2>/dev/null || true; }
        sleep 0.2
    done
    wait $kernel || status=$?
    kernel=
    if [ $status = 0 ]; then
        ip netns exec "$1" ping -q -c 3 -i 0.2 -W 2 "$4" >/dev/null || status=1
    fi
    kill $stack 2>/dev/null || true
    ended=0
    wait $stack || ended=$?
    stack=
    [ $status != 0 ] || status=$ended
    grep -v ready "$out" || true
    [ $status = 0 ] || { echo "failed: $status"; exit 1; }
}
round $b packet ng0 192.0.2.2 24 192.0.2.1
round $b packet ng0 fd00:2::2 64 fd00:2::1
round $a tap ngtap 198.51.100.2 24 198.51.100.1
round $a tap ngtap fd00:3::2 64 fd00:3::1
