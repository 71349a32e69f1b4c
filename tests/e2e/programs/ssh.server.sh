mkdir -p "$WORK/sshd"
chmod 700 "$WORK/sshd"
[ -f "$KEYS/host" ] || { echo "no keys in $KEYS"; exit 1; }
# sshd insists on private keys that only their owner reads.
cp "$KEYS/host" "$KEYS/user.pub" "$WORK/sshd/"
chmod 600 "$WORK/sshd/host"
cat >"$WORK/sshd/config" <<CONF
Port $PORT
ListenAddress $BIND
HostKey $WORK/sshd/host
AuthorizedKeysFile $WORK/sshd/user.pub
PidFile $WORK/sshd/pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
CONF
exec /usr/sbin/sshd -D -e -f "$WORK/sshd/config"
