//! What client and server say to each other over TCP.
//!
//! A connection begins with one byte. [`CONNECT_BYTE`] asks for one byte back and an end of file.
//! Anything else begins a hello of [`HELLO_BYTES`] bytes, which says what the connection is for.

/// The only byte that a client of the `connect` workload sends, and the only one it gets back.
pub(crate) const CONNECT_BYTE: u8 = b'C';

/// Length of a hello.
pub(crate) const HELLO_BYTES: usize = 16;

/// The largest request or reply; a hello that asks for more is refused.
pub(crate) const MAX_MESSAGE: u32 = 1 << 20;

/// How much a bulk transfer reads or writes per system call; the default of iperf3.
pub(crate) const BLOCK: usize = 128 * 1024;

const MAGIC: [u8; 4] = *b"NGB1";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For each `request` bytes that arrive, the server sends `reply` bytes.
    Request { request: u32, reply: u32 },
    /// The server sends until the client closes.
    Source,
    /// The server reads to the end of file, then sends how many bytes came, as a big-endian `u64`.
    Sink,
}

impl Mode {
    /// The hello that asks for this mode.
    pub(crate) fn encode(self) -> [u8; HELLO_BYTES] {
        let (code, request, reply) = match self {
            Self::Request { request, reply } => (1, request, reply),
            Self::Source => (2, 0, 0),
            Self::Sink => (3, 0, 0),
        };
        let mut hello = [0; HELLO_BYTES];
        hello[..4].copy_from_slice(&MAGIC);
        hello[4] = code;
        hello[8..12].copy_from_slice(&u32::to_be_bytes(request));
        hello[12..].copy_from_slice(&u32::to_be_bytes(reply));
        hello
    }

    /// Reads a hello; `None` if it is not one of ours or asks for too much.
    pub(crate) fn decode(hello: &[u8; HELLO_BYTES]) -> Option<Self> {
        let [m0, m1, m2, m3, code, 0, 0, 0, a0, a1, a2, a3, b0, b1, b2, b3] = *hello else { return None };
        if [m0, m1, m2, m3] != MAGIC {
            return None;
        }
        let (request, reply) = (u32::from_be_bytes([a0, a1, a2, a3]), u32::from_be_bytes([b0, b1, b2, b3]));
        let sizes_ok = |size| (1..=MAX_MESSAGE).contains(&size);
        match code {
            1 if sizes_ok(request) && sizes_ok(reply) => Some(Self::Request { request, reply }),
            2 => Some(Self::Source),
            3 => Some(Self::Sink),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire() {
        for mode in [Mode::Request { request: 40, reply: MAX_MESSAGE }, Mode::Source, Mode::Sink] {
            assert_eq!(Mode::decode(&mode.encode()), Some(mode));
            assert_ne!(mode.encode()[0], CONNECT_BYTE);
        }
    }

    #[test]
    fn a_bad_hello_is_refused() {
        assert_eq!(Mode::decode(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(Mode::decode(&Mode::Request { request: 0, reply: 1 }.encode()), None);
        assert_eq!(Mode::decode(&Mode::Request { request: 1, reply: MAX_MESSAGE + 1 }.encode()), None);
        let mut hello = Mode::Sink.encode();
        hello[4] = 9;
        assert_eq!(Mode::decode(&hello), None);
    }
}
