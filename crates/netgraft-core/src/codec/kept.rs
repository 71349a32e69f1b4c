//! Options of a TCP socket that neither its stack nor its surrogate has to know.
//!
//! What most of them ask for is about datagrams, about hardware or about scheduling: nothing follows from it on a connection
//! here, and the program reads what it has set, as on Linux. Of those that would change what a connection does only the
//! value that changes nothing is taken, and the others say what they say where the kernel lacks them: ENOPROTOOPT. What each
//! of them answers was asked of the kernel (`tests/compat/options_probe.py`).

use netgraft_plugin::SocketOption;

use crate::uapi::{self, Errno};

/// How the bytes of a value are read.
#[derive(Clone, Copy)]
enum Reads {
    /// As an `int`, and nothing shorter.
    Int,
    /// One byte is enough (`do_ip_setsockopt` of Linux).
    Byte,
    /// One byte is enough, and none is a zero.
    Any,
    /// What is shorter than an `int` is a zero (`do_ipv6_setsockopt`).
    IntOrZero,
}

/// What `setsockopt` does.
#[derive(Clone, Copy)]
enum Takes {
    /// Keeps what the function makes of a value.
    Number(Reads, fn(i32) -> Result<i32, Errno>),
    /// Fails.
    Fails(Errno),
    /// Fails with EINVAL for fewer bytes than these, else with the errno.
    Structure(usize, Errno),
    /// Fails with EINVAL for any other number of bytes, else with the errno.
    Exactly(usize, Errno),
}

/// What `getsockopt` gives.
#[derive(Clone, Copy)]
enum Shows {
    /// What is kept, at first this.
    Kept(i32),
    /// These bytes.
    Bytes(&'static [u8]),
    /// Nothing: it fails.
    Fails(Errno),
    /// What the stack says.
    Elsewhere,
}

/// An option.
struct Row {
    level: i32,
    name: i32,
    shows: Shows,
    takes: Takes,
}

/// What a `getsockopt` is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the program has set, at first this.
    Kept(Key, i32),
    /// These bytes.
    Bytes(&'static [u8]),
}

/// An option of this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u8);

impl Key {
    /// What a stack may do with a value: when to write is up to it, too (`TCP_NOTSENT_LOWAT`).
    #[must_use]
    pub fn as_hint(self, value: i32) -> Option<SocketOption> {
        let row = ROWS.get(usize::from(self.0))?;
        (row.level == TCP && row.name == uapi::TCP_NOTSENT_LOWAT)
            .then_some(SocketOption::NotSentLowWater(value as u32))
    }
}

/// The values that a socket keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(Vec<(Key, i32)>);

impl Kept {
    /// What is kept of an option.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<i32> {
        self.0.iter().find(|(kept, _)| *kept == key).map(|(_, value)| *value)
    }

    /// Keeps a value.
    pub fn set(&mut self, key: Key, value: i32) {
        match self.0.iter_mut().find(|(kept, _)| *kept == key) {
            Some((_, kept)) => *kept = value,
            None => self.0.push((key, value)),
        }
    }

    /// Whether `IP_BIND_ADDRESS_NO_PORT` is set (ip(7)).
    #[must_use]
    pub fn binds_without_port(&self) -> bool {
        find(uapi::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT)
            .is_some_and(|(key, _)| self.get(key).is_some_and(|v| v != 0))
    }
}

fn flag(value: i32) -> Result<i32, Errno> {
    Ok(i32::from(value != 0))
}

fn zero_or_one(value: i32) -> Result<i32, Errno> {
    within(value, 0, 1)
}

fn within(value: i32, least: i32, most: i32) -> Result<i32, Errno> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(uapi::EINVAL) }
}

fn any(value: i32) -> Result<i32, Errno> {
    Ok(value)
}

fn ignored(_value: i32) -> Result<i32, Errno> {
    Ok(0)
}

fn not_negative(value: i32) -> Result<i32, Errno> {
    within(value, 0, i32::MAX)
}

/// Zero, as it is without the option.
fn only_zero(value: i32) -> Result<i32, Errno> {
    only(value, 0, i32::MIN, i32::MAX)
}

/// A value that changes nothing, of a range.
fn only(value: i32, nothing: i32, least: i32, most: i32) -> Result<i32, Errno> {
    match within(value, least, most)? {
        value if value == nothing => Ok(value),
        _ => Err(uapi::ENOPROTOOPT),
    }
}

/// Turning it on takes a privilege over the host.
fn off_or(errno: Errno) -> impl Fn(i32) -> Result<i32, Errno> {
    move |value| if value == 0 { Ok(0) } else { Err(errno) }
}

const FLAG: Takes = Takes::Number(Reads::Int, flag);
const FLAG_OF_IP: Takes = Takes::Number(Reads::Any, flag);
const OFF: Shows = Shows::Kept(0);
const NONE: Shows = Shows::Bytes(&[]);
const READ_ONLY: Takes = Takes::Fails(uapi::ENOPROTOOPT);
/// TCP looks at the length first.
const READ_ONLY_INT: Takes = Takes::Structure(4, uapi::ENOPROTOOPT);
const WRITE_ONLY: Shows = Shows::Fails(uapi::ENOPROTOOPT);
/// `getsockopt` and `setsockopt` of what only AF_UNIX has.
const UNSUPPORTED: (Shows, Takes) = (Shows::Fails(uapi::EOPNOTSUPP), Takes::Fails(uapi::EOPNOTSUPP));
/// Off, and may be turned off.
const NEVER_ON: (Shows, Takes) = (OFF, Takes::Number(Reads::Int, only_zero));

/// Flags of a structure, of which none is set.
const NO_FLAGS: (Shows, Takes) = (Shows::Bytes(&[0; 8]), Takes::Number(Reads::Int, only_zero));

const fn row(level: i32, name: i32, (shows, takes): (Shows, Takes)) -> Row {
    Row { level, name, shows, takes }
}

const SOL: i32 = uapi::SOL_SOCKET;
const IP: i32 = uapi::IPPROTO_IP;
const V6: i32 = uapi::IPPROTO_IPV6;
const TCP: i32 = uapi::IPPROTO_TCP;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
/// `struct ucred` of who has no process (`cred_to_ucred` of Linux).
const NOBODY: [u8; 12] = [0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];

/// asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h
static ROWS: &[Row] = &[
    // SO_DEBUG
    row(SOL, 1, (OFF, Takes::Number(Reads::Int, |v| off_or(uapi::EACCES)(v)))),
    // SO_NO_CHECK, SO_BSDCOMPAT
    row(SOL, 11, (OFF, FLAG)),
    row(SOL, 14, (OFF, Takes::Number(Reads::Int, ignored))),
    // SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS
    row(SOL, 16, UNSUPPORTED),
    row(SOL, 34, UNSUPPORTED),
    row(SOL, 76, UNSUPPORTED),
    row(SOL, 83, UNSUPPORTED),
    // SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD
    row(SOL, 17, (Shows::Bytes(&NOBODY), READ_ONLY)),
    row(SOL, 59, (Shows::Fails(uapi::ENODATA), READ_ONLY)),
    row(SOL, 77, (Shows::Fails(uapi::ENODATA), READ_ONLY)),
    // SO_ATTACH_FILTER, whose value is a pointer and a length; SO_DETACH_FILTER, SO_LOCK_FILTER
    row(SOL, 26, (NONE, Takes::Exactly(16, uapi::ENOPROTOOPT))),
    row(SOL, 27, (WRITE_ONLY, Takes::Fails(uapi::ENOENT))),
    row(SOL, 44, (OFF, READ_ONLY)),
    // SO_RXQ_OVFL, SO_WIFI_STATUS, SO_NOFCS, SO_SELECT_ERR_QUEUE
    row(SOL, 40, (OFF, FLAG)),
    row(SOL, 41, (OFF, FLAG)),
    row(SOL, 43, (OFF, FLAG)),
    row(SOL, 45, (OFF, FLAG)),
    // SO_BUSY_POLL, SO_INCOMING_CPU, SO_CNX_ADVICE, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET, SO_TXREHASH
    row(SOL, 46, (OFF, Takes::Number(Reads::Int, not_negative))),
    row(SOL, 49, (Shows::Kept(-1), Takes::Number(Reads::Int, any))),
    row(SOL, 53, (WRITE_ONLY, Takes::Number(Reads::Int, any))),
    row(SOL, 69, (OFF, Takes::Number(Reads::Int, |v| off_or(uapi::EPERM)(v)))),
    row(SOL, 70, (WRITE_ONLY, Takes::Number(Reads::Int, |v| not_negative(v).and_then(off_or(uapi::EPERM))))),
    row(SOL, 74, (Shows::Kept(1), Takes::Number(Reads::Int, |v| within(v, -1, 1).map(i32::abs)))),
    // SO_BPF_EXTENSIONS, SO_INCOMING_NAPI_ID
    row(SOL, 48, (Shows::Kept(64), READ_ONLY)),
    row(SOL, 56, (OFF, READ_ONLY)),
    // SO_ZEROCOPY: nobody would tell when a buffer is free.
    row(SOL, 60, (OFF, Takes::Number(Reads::Int, |v| zero_or_one(v).and_then(off_or(uapi::EOPNOTSUPP))))),
    // SO_TIMESTAMPING, SO_TIMESTAMPING_NEW, SO_TXTIME: structures of two words. SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW
    row(SOL, 37, NO_FLAGS),
    row(SOL, 65, NO_FLAGS),
    row(SOL, 61, (Shows::Bytes(&[0; 8]), Takes::Exactly(8, uapi::ENOPROTOOPT))),
    row(SOL, 63, NEVER_ON),
    row(SOL, 64, NEVER_ON),
    // SO_MAX_PACING_RATE: without a limit
    row(SOL, 47, (Shows::Bytes(&[255; 8]), Takes::Number(Reads::Int, |v| only(v, -1, i32::MIN, i32::MAX)))),
    // SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF
    row(SOL, 51, (WRITE_ONLY, Takes::Exactly(16, uapi::ENOPROTOOPT))),
    row(SOL, 52, (WRITE_ONLY, Takes::Fails(uapi::EINVAL))),
    row(SOL, 68, (WRITE_ONLY, Takes::Fails(uapi::EINVAL))),
    // SO_BUF_LOCK, SO_RCVMARK
    row(SOL, 72, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, 3)))),
    row(SOL, 75, NEVER_ON),
    // SO_BINDTOIFINDEX, SO_RESERVE_MEM
    row(SOL, 62, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, i32::MAX)))),
    row(SOL, 73, (OFF, Takes::Number(Reads::Int, |v| not_negative(v).and(Err(uapi::EOPNOTSUPP))))),
    // IP_OPTIONS, IP_ROUTER_ALERT, IP_RECVOPTS, IP_PKTOPTIONS
    row(IP, 4, (NONE, Takes::Structure(0, uapi::ENOPROTOOPT))),
    row(IP, 5, (OFF, Takes::Fails(uapi::EINVAL))),
    row(IP, 6, (OFF, FLAG_OF_IP)),
    row(IP, 9, (NONE, READ_ONLY)),
    // IP_FREEBIND, IP_PASSSEC, IP_TRANSPARENT, IP_RECVORIGDSTADDR, IP_MINTTL, IP_NODEFRAG, IP_CHECKSUM
    row(IP, 15, (OFF, Takes::Number(Reads::Byte, only_zero))),
    row(IP, 18, (OFF, FLAG_OF_IP)),
    row(IP, 19, (OFF, Takes::Number(Reads::Byte, |v| off_or(uapi::EPERM)(v)))),
    row(IP, 20, (OFF, FLAG_OF_IP)),
    row(IP, 21, (OFF, Takes::Number(Reads::Byte, |v| only(v, 0, 0, 255)))),
    row(IP, 22, (OFF, READ_ONLY)),
    row(IP, 23, (OFF, FLAG_OF_IP)),
    row(IP, IP_BIND_ADDRESS_NO_PORT, (OFF, FLAG_OF_IP)),
    // IP_RECVFRAGSIZE, IP_RECVERR_RFC4884
    row(IP, 25, (OFF, Takes::Fails(uapi::EINVAL))),
    row(IP, 26, (OFF, Takes::Number(Reads::Any, zero_or_one))),
    // Groups: IP_MULTICAST_IF and IP_MULTICAST_TTL, memberships, sources
    row(IP, 32, (OFF, Takes::Fails(uapi::EINVAL))),
    row(IP, 33, (Shows::Kept(1), Takes::Fails(uapi::EINVAL))),
    row(IP, 35, (WRITE_ONLY, Takes::Fails(uapi::EPROTO))),
    row(IP, 36, (WRITE_ONLY, Takes::Fails(uapi::EPROTO))),
    row(IP, 37, (WRITE_ONLY, Takes::Exactly(12, uapi::ENOPROTOOPT))),
    row(IP, 38, (WRITE_ONLY, Takes::Exactly(12, uapi::ENOPROTOOPT))),
    row(IP, 39, (WRITE_ONLY, Takes::Exactly(12, uapi::ENOPROTOOPT))),
    row(IP, 40, (WRITE_ONLY, Takes::Exactly(12, uapi::ENOPROTOOPT))),
    row(IP, 41, (WRITE_ONLY, Takes::Structure(16, uapi::ENOPROTOOPT))),
    row(IP, 42, (WRITE_ONLY, Takes::Structure(136, uapi::ENOPROTOOPT))),
    row(IP, 43, (WRITE_ONLY, Takes::Structure(264, uapi::ENOPROTOOPT))),
    row(IP, 44, (WRITE_ONLY, Takes::Structure(264, uapi::ENOPROTOOPT))),
    row(IP, 45, (WRITE_ONLY, Takes::Structure(136, uapi::ENOPROTOOPT))),
    row(IP, 46, (WRITE_ONLY, Takes::Structure(264, uapi::ENOPROTOOPT))),
    row(IP, 47, (WRITE_ONLY, Takes::Structure(264, uapi::ENOPROTOOPT))),
    row(IP, 48, (Shows::Fails(uapi::EINVAL), Takes::Structure(144, uapi::ENOPROTOOPT))),
    // IP_MULTICAST_ALL, IP_UNICAST_IF, IP_LOCAL_PORT_RANGE
    row(IP, 49, (Shows::Kept(1), Takes::Number(Reads::Byte, zero_or_one))),
    row(IP, 50, (OFF, Takes::Number(Reads::Int, |v| off_or(uapi::EADDRNOTAVAIL)(v)))),
    row(IP, 51, (OFF, Takes::Number(Reads::Int, only_zero))),
    // IPV6_2292PKTINFO, -HOPOPTS, -DSTOPTS, -RTHDR, -PKTOPTIONS, -HOPLIMIT
    row(V6, 2, (OFF, FLAG)),
    row(V6, 3, (OFF, FLAG)),
    row(V6, 4, (OFF, FLAG)),
    row(V6, 5, (OFF, FLAG)),
    row(V6, 6, (NONE, Takes::Number(Reads::IntOrZero, ignored))),
    row(V6, 8, (OFF, FLAG)),
    // Groups: IPV6_MULTICAST_IF and IPV6_MULTICAST_HOPS, memberships, anycast
    row(V6, 17, (OFF, READ_ONLY)),
    row(V6, 18, (Shows::Kept(1), READ_ONLY)),
    row(V6, 20, (WRITE_ONLY, Takes::Structure(20, uapi::EPROTO))),
    row(V6, 21, (WRITE_ONLY, Takes::Structure(20, uapi::EPROTO))),
    row(V6, 27, (WRITE_ONLY, Takes::Structure(20, uapi::EADDRNOTAVAIL))),
    row(V6, 28, (WRITE_ONLY, Takes::Structure(20, uapi::ENOENT))),
    row(V6, 29, (Shows::Kept(1), FLAG)),
    // IPV6_ROUTER_ALERT, IPV6_ROUTER_ALERT_ISOLATE, IPV6_RECVERR_RFC4884
    row(V6, 22, (OFF, Takes::Structure(4, uapi::ENOPROTOOPT))),
    row(V6, 30, (OFF, FLAG)),
    row(V6, 31, (OFF, Takes::Number(Reads::Int, zero_or_one))),
    // IPV6_MTU: the size of fragments, of which TCP makes none.
    row(V6, 24, (Shows::Elsewhere, Takes::Number(Reads::Int, fragment_size))),
    // IPV6_FLOWINFO_SEND, IPV6_AUTOFLOWLABEL: nobody has to label a flow.
    row(V6, 33, (OFF, FLAG)),
    row(V6, 70, (Shows::Kept(1), Takes::Number(Reads::IntOrZero, flag))),
    // IPV6_RECVHOPOPTS, IPV6_RECVRTHDR, IPV6_RECVDSTOPTS, IPV6_RECVPATHMTU, IPV6_RECVORIGDSTADDR, IPV6_RECVFRAGSIZE
    row(V6, 53, (OFF, FLAG)),
    row(V6, 56, (OFF, FLAG)),
    row(V6, 58, (OFF, FLAG)),
    row(V6, 60, (OFF, FLAG)),
    row(V6, 74, (OFF, FLAG)),
    row(V6, 77, (OFF, Takes::Number(Reads::IntOrZero, flag))),
    // IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS, IPV6_DONTFRAG
    row(V6, 54, (NONE, Takes::Structure(0, uapi::ENOPROTOOPT))),
    row(V6, 55, (NONE, Takes::Structure(0, uapi::ENOPROTOOPT))),
    row(V6, 57, (NONE, Takes::Structure(0, uapi::ENOPROTOOPT))),
    row(V6, 59, (NONE, Takes::Structure(0, uapi::ENOPROTOOPT))),
    row(V6, 62, (OFF, Takes::Number(Reads::IntOrZero, flag))),
    // IPV6_FLOWLABEL_MGR, IPV6_PKTINFO
    row(V6, 32, (Shows::Fails(uapi::EINVAL), Takes::Structure(32, uapi::ENOPROTOOPT))),
    row(V6, 50, (WRITE_ONLY, Takes::Structure(20, uapi::ENOPROTOOPT))),
    // IPV6_ADDR_PREFERENCES, IPV6_MINHOPCOUNT, IPV6_TRANSPARENT, IPV6_UNICAST_IF, IPV6_FREEBIND
    row(V6, 72, (Shows::Kept(0x500), READ_ONLY)),
    row(V6, 73, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, 255)))),
    row(V6, 75, (OFF, Takes::Number(Reads::Int, |v| off_or(uapi::EPERM)(v)))),
    row(V6, 76, (OFF, Takes::Number(Reads::Int, |v| off_or(uapi::EADDRNOTAVAIL)(v)))),
    row(V6, 78, NEVER_ON),
    // TCP_MD5SIG, TCP_MD5SIG_EXT
    row(TCP, 14, (WRITE_ONLY, Takes::Structure(216, uapi::ENOPROTOOPT))),
    row(TCP, 32, (WRITE_ONLY, Takes::Structure(216, uapi::ENOPROTOOPT))),
    // TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK: hints, of which Linux has dropped the second.
    row(TCP, 16, (OFF, Takes::Number(Reads::Int, zero_or_one))),
    row(TCP, 17, (OFF, Takes::Number(Reads::Int, |v| zero_or_one(v).and(Ok(0))))),
    // TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_TIMESTAMP, TCP_REPAIR_WINDOW
    row(TCP, 19, (OFF, Takes::Fails(uapi::EPERM))),
    row(TCP, 20, (Shows::Fails(uapi::EINVAL), Takes::Structure(4, uapi::EPERM))),
    row(TCP, 21, (Shows::Fails(uapi::EINVAL), Takes::Fails(uapi::EINVAL))),
    row(TCP, 22, (WRITE_ONLY, Takes::Fails(uapi::EINVAL))),
    row(TCP, 24, (WRITE_ONLY, Takes::Structure(4, uapi::EPERM))),
    row(TCP, 29, (Shows::Fails(uapi::EINVAL), Takes::Structure(4, uapi::EPERM))),
    // TCP_NOTSENT_LOWAT: a hint when to write.
    row(TCP, uapi::TCP_NOTSENT_LOWAT, (OFF, Takes::Number(Reads::Int, any))),
    // TCP_CC_INFO: CUBIC has none. TCP_SAVE_SYN, TCP_SAVED_SYN, TCP_ULP
    row(TCP, 26, (NONE, READ_ONLY_INT)),
    row(TCP, 27, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, 2)))),
    row(TCP, 28, (NONE, READ_ONLY_INT)),
    row(TCP, 31, (NONE, READ_ONLY)),
    // TCP_FASTOPEN_KEY, TCP_FASTOPEN_NO_COOKIE
    row(TCP, 33, (NONE, Takes::Structure(16, uapi::ENOPROTOOPT))),
    row(TCP, 34, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, 1)))),
    // TCP_ZEROCOPY_RECEIVE, TCP_INQ, TCP_TX_DELAY, TCP_IS_MPTCP, TCP_RTO_MAX_MS
    row(TCP, 35, (Shows::Fails(uapi::EINVAL), READ_ONLY_INT)),
    row(TCP, 36, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, 1)))),
    row(TCP, 37, (OFF, Takes::Number(Reads::Int, |v| only(v, 0, 0, i32::MAX)))),
    row(TCP, 43, (OFF, READ_ONLY_INT)),
    row(TCP, 44, (Shows::Kept(120_000), Takes::Number(Reads::Int, |v| only(v, 120_000, 1000, 120_000)))),
];

/// Zero, or what every link carries (RFC 8200 section 5).
fn fragment_size(value: i32) -> Result<i32, Errno> {
    if value == 0 { Ok(0) } else { within(value, 1280, i32::MAX) }
}

fn find(level: i32, name: i32) -> Option<(Key, &'static Row)> {
    let at = ROWS.iter().position(|row| row.level == level && row.name == name)?;
    Some((Key(u8::try_from(at).ok()?), &ROWS[at]))
}

/// Reads a `setsockopt`; `None` if the table does not have the option.
pub(super) fn parse_set(level: i32, name: i32, value: &[u8]) -> Option<Result<(Key, i32), Errno>> {
    let (key, row) = find(level, name)?;
    Some(match row.takes {
        Takes::Number(reads, check) => read(reads, value).and_then(check).map(|value| (key, value)),
        Takes::Fails(errno) => Err(errno),
        // Taking back what nobody has set.
        Takes::Structure(0, _) if value.is_empty() => Ok((key, 0)),
        Takes::Structure(least, _) if value.len() < least => Err(uapi::EINVAL),
        Takes::Exactly(length, _) if value.len() != length => Err(uapi::EINVAL),
        Takes::Structure(_, errno) | Takes::Exactly(_, errno) => Err(errno),
    })
}

fn read(reads: Reads, value: &[u8]) -> Result<i32, Errno> {
    let int = value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match (reads, int, value.first()) {
        (_, Some(int), _) => Ok(int),
        (Reads::Byte | Reads::Any, None, Some(byte)) => Ok(i32::from(*byte)),
        (Reads::Any, None, None) | (Reads::IntOrZero, None, _) => Ok(0),
        _ => Err(uapi::EINVAL),
    }
}

/// Reads a `getsockopt`; `None` if the table does not have the option.
pub(super) fn parse_get(level: i32, name: i32) -> Option<Result<Answer, Errno>> {
    let (key, row) = find(level, name)?;
    Some(match row.shows {
        Shows::Kept(first) => Ok(Answer::Kept(key, first)),
        Shows::Bytes(bytes) => Ok(Answer::Bytes(bytes)),
        Shows::Fails(errno) => Err(errno),
        Shows::Elsewhere => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_stands_once() {
        for (at, row) in ROWS.iter().enumerate() {
            let first = ROWS.iter().position(|other| (other.level, other.name) == (row.level, row.name));
            assert_eq!(first, Some(at), "level {}, option {}", row.level, row.name);
        }
        assert!(ROWS.len() <= usize::from(u8::MAX), "a key is a byte");
    }

    #[test]
    fn values_are_read_as_the_kernel_reads_them() {
        let set = |level, name, value: &[u8]| parse_set(level, name, value).unwrap().map(|(_, v)| v);
        assert_eq!(set(IP, 6, &[]), Ok(0));
        assert_eq!(set(IP, 6, &[7]), Ok(1), "a flag");
        assert_eq!(set(IP, 15, &[]), Err(uapi::EINVAL));
        assert_eq!(set(IP, 15, &[1]), Err(uapi::ENOPROTOOPT), "it would change something");
        assert_eq!(set(IP, 4, &[]), Ok(0));
        assert_eq!(set(SOL, 11, &[1, 0, 0]), Err(uapi::EINVAL));
        assert_eq!(set(SOL, 74, &(-1i32).to_ne_bytes()), Ok(1));
        assert_eq!(set(SOL, 60, &1i32.to_ne_bytes()), Err(uapi::EOPNOTSUPP));
        assert_eq!(set(V6, 62, &[1]), Ok(0));
        assert_eq!(set(V6, 24, &1279i32.to_ne_bytes()), Err(uapi::EINVAL));
        assert_eq!(set(TCP, 17, &1i32.to_ne_bytes()), Ok(0));
        assert!(parse_set(TCP, 999, &[0; 4]).is_none());
    }

    #[test]
    fn a_socket_keeps_the_last_value() {
        let mut kept = Kept::default();
        assert!(!kept.binds_without_port());
        let (key, value) = parse_set(IP, IP_BIND_ADDRESS_NO_PORT, &[1]).unwrap().unwrap();
        kept.set(key, value);
        assert!(kept.binds_without_port());
        kept.set(key, 0);
        assert!(!kept.binds_without_port());
        assert_eq!(kept.get(key), Some(0));
    }
}
