//! What each number and its bytes mean.

use super::*;
use netgraft_plugin::Protocol;

const TCP4: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
const UDP6: SocketSpec = SocketSpec { domain: Domain::V6, kind: Kind::Datagram, protocol: Protocol::Udp };

fn set(spec: SocketSpec, level: i32, name: i32, value: i32) -> Result<Set, Errno> {
    parse_set(spec, level, name, &value.to_ne_bytes())
}

#[test]
fn values_are_checked() {
    assert_eq!(set(TCP4, 6, uapi::TCP_KEEPIDLE, 0), Err(uapi::EINVAL));
    assert_eq!(
        set(TCP4, 6, uapi::TCP_KEEPIDLE, 9),
        Ok(Set::Stack(SocketOption::KeepIdle(Duration::from_secs(9))))
    );
    assert_eq!(parse_set(TCP4, 6, uapi::TCP_NODELAY, &[1, 0]), Err(uapi::EINVAL));
    assert_eq!(set(UDP6, 6, uapi::TCP_NODELAY, 1), Err(uapi::ENOPROTOOPT));
    assert_eq!(set(TCP4, 41, uapi::IPV6_V6ONLY, 1), Err(uapi::ENOPROTOOPT));
    assert_eq!(set(UDP6, 1, uapi::SO_MARK, 1), Err(uapi::EPERM));
    assert_eq!(set(TCP4, 1, uapi::SO_TYPE, 1), Err(uapi::ENOPROTOOPT));
    for (value, result) in [(1, Ok(Set::Surrogate)), (0, Ok(Set::Surrogate)), (2, Err(uapi::ENOPROTOOPT))] {
        assert_eq!(set(TCP4, 1, uapi::SO_RCVLOWAT, value), result);
    }
    assert_eq!(set(TCP4, 1, uapi::SO_RCVLOWAT, -1), Err(uapi::ENOPROTOOPT));
    assert_eq!(set(UDP6, 1, uapi::SO_RCVLOWAT, 50), Ok(Set::Surrogate));
    assert_eq!(set(UDP6, 0, uapi::IP_TTL, 256), Err(uapi::EINVAL));
    assert_eq!(parse_set(UDP6, 0, uapi::IP_TTL, &[7]), Ok(Set::Stack(SocketOption::Ttl(7))));
}

#[test]
fn time_outs() {
    let value = |s: i64, us: i64| [s.to_ne_bytes(), us.to_ne_bytes()].concat();
    let parse = |v: Vec<u8>| parse_set(TCP4, 1, uapi::SO_RCVTIMEO, &v);
    let time = Some(Duration::from_millis(1500));
    assert_eq!(parse(value(1, 500_000)), Ok(Set::Timeout(Direction::Receive, time)));
    assert_eq!(encode_timeout(time), value(1, 500_000));
    assert_eq!(parse(value(0, 0)), Ok(Set::Timeout(Direction::Receive, None)));
    assert_eq!(parse(value(0, 1_000_000)), Err(uapi::EDOM));
    assert_eq!(parse(vec![0; 8]), Err(uapi::EINVAL));
}

#[test]
fn linger_and_buffers_look_as_on_linux() {
    let linger = SocketOption::Linger(Some(Duration::from_secs(3)));
    let bytes = encode(&linger);
    assert_eq!(bytes, [1, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(parse_set(TCP4, 1, uapi::SO_LINGER, &bytes), Ok(Set::Stack(linger)));
    assert_eq!(encode(&SocketOption::SendBuffer(4096)), encode_int(8192));
}

/// Against the C library's declaration of the structure.
#[test]
fn tcp_info_has_the_kernels_layout() {
    use std::mem::offset_of;
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_rto), 8);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_snd_mss), 16);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_unacked), 24);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_rtt), 68);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_snd_cwnd), 80);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_rcv_space), 96);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_total_retrans), 100);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_sacked), 28);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_lost), 32);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_snd_ssthresh), 76);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_pacing_rate), 104);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_notsent_bytes), 144);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_min_rtt), 148);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_delivery_rate), 160);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_bytes_sent), 200);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_bytes_retrans), 208);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_snd_wnd), 228);
    assert_eq!(offset_of!(linux_raw_sys::net::tcp_info, tcpi_rcv_wnd), 232);
    let info = TcpInfo { state: netgraft_plugin::TcpState::Established, ..TcpInfo::default() };
    assert_eq!(encode_tcp_info(&info)[0], 1);
    // A listener's queue and backlog are numbers of connections.
    let listener = TcpInfo { unacknowledged: 3, selectively_acknowledged: 128, ..TcpInfo::default() };
    let bytes = encode_tcp_info(&listener);
    assert_eq!((bytes[24], bytes[28]), (3, 128));
    let agreed = netgraft_plugin::Agreed {
        timestamps: true,
        sack: true,
        window_scales: Some((7, 10)),
        ecn: false,
        fast_open: true,
    };
    let bytes = encode_tcp_info(&TcpInfo { agreed, slow_start_threshold: u32::MAX, ..TcpInfo::default() });
    assert_eq!((bytes[5], bytes[6]), (1 | 2 | 4 | 32, 10 << 4 | 7));
    assert_eq!(bytes[76..80], 0x7fff_ffff_u32.to_ne_bytes());
}
