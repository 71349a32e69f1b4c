//! What the operator sets for the whole stack (`--plugin-arg`): names and values of sysctls, as ip-sysctl has them.

use netgraft_plugin::stack::SetupError;
use netgraft_tcp::{Algorithm, Ecn};

/// Bytes of memory for the data of all connections: what is kept for retransmission, and what nobody has read.
const MEMORY: usize = 512 << 20;
/// The least that is of use.
const LEAST_MEMORY: usize = 1 << 20;

/// Settings of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// `tcp_congestion_control`: what new sockets have.
    pub(crate) congestion: Algorithm,
    /// `tcp_mem`, the last of its values, in bytes.
    pub(crate) memory: usize,
    /// `tcp_ecn`
    pub(crate) ecn: Ecn,
    /// `tcp_mtu_probing` of 1.
    pub(crate) find_black_holes: bool,
    /// `tcp_fastopen`: whether clients put data into SYNs, and whether listeners take it.
    pub(crate) fast_open: (bool, bool),
}

impl Default for Argument {
    fn default() -> Self {
        Argument {
            congestion: Algorithm::Cubic,
            memory: MEMORY,
            ecn: Ecn::Accept,
            find_black_holes: false,
            fast_open: (true, true),
        }
    }
}

impl Argument {
    /// Reads NAME=VALUE as often as is wanted, with commas between.
    ///
    /// # Errors
    /// What is wrong, and what may be said instead.
    pub(crate) fn parse(text: &str) -> Result<Self, SetupError> {
        let mut argument = Argument::default();
        for setting in text.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let wrong =
                |what: &str| SetupError::new(format!("--plugin-arg: {setting}: {name} can be {what}"));
            match name.strip_prefix("net.ipv4.").unwrap_or(name) {
                "tcp_congestion_control" => {
                    let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == value);
                    argument.congestion = known.ok_or_else(|| wrong("cubic, reno or bbr"))?;
                }
                "tcp_mem" => {
                    let bytes = bytes(value).filter(|bytes| *bytes >= LEAST_MEMORY);
                    argument.memory =
                        bytes.ok_or_else(|| wrong("a number of bytes from 1M on, such as 256M"))?;
                }
                "tcp_ecn" => {
                    argument.ecn = match value {
                        "0" => Ecn::Off,
                        "1" => Ecn::Ask,
                        "2" => Ecn::Accept,
                        _ => return Err(wrong("0 (never), 1 (ask for it) or 2 (if the peer asks)")),
                    };
                }
                "tcp_mtu_probing" => {
                    argument.find_black_holes = match value {
                        "0" => false,
                        "1" => true,
                        _ => return Err(wrong("0 (never) or 1 (if large segments do not arrive)")),
                    };
                }
                "tcp_fastopen" => {
                    argument.fast_open = match value {
                        "0" => (false, false),
                        "1" => (true, false),
                        "2" => (false, true),
                        "3" => (true, true),
                        _ => return Err(wrong("0 (off), 1 (clients), 2 (listeners) or 3 (both)")),
                    };
                }
                _ => {
                    return Err(SetupError::new(format!(
                        "--plugin-arg: the built-in stack has no setting {name}, but tcp_congestion_control, tcp_mem, \
                         tcp_ecn, tcp_fastopen, tcp_mtu_probing"
                    )));
                }
            }
        }
        Ok(argument)
    }
}

/// A number of bytes, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Option<usize> {
    let (number, shift) = match text.char_indices().last()? {
        (at, 'K' | 'k') => (&text[..at], 10),
        (at, 'M' | 'm') => (&text[..at], 20),
        (at, 'G' | 'g') => (&text[..at], 30),
        _ => (text, 0),
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_sysctls() {
        let parsed = Argument::parse("net.ipv4.tcp_congestion_control=bbr, tcp_mem=64M,tcp_ecn=1").unwrap();
        let expected =
            Argument { congestion: Algorithm::Bbr, memory: 64 << 20, ecn: Ecn::Ask, ..Argument::default() };
        assert_eq!(parsed, expected);
        assert_eq!(Argument::parse("").unwrap(), Argument::default());
        assert_eq!(Argument::parse("tcp_fastopen=1").unwrap().fast_open, (true, false));
        assert!(Argument::parse("tcp_mtu_probing=1").unwrap().find_black_holes);
        for (text, part) in [
            ("tcp_congestion_control=vegas", "cubic, reno or bbr"),
            ("tcp_mem=12", "from 1M on"),
            ("tcp_mem=99999999999999999999G", "from 1M on"),
            ("tcp_mem", "from 1M on"),
            ("tcp_ecn=3", "0 (never)"),
            ("tcp_fastopen=9", "0 (off), 1"),
            ("tcp_mtu_probing=2", "0 (never) or 1"),
            ("tcp_rmem=1", "has no setting tcp_rmem"),
            ("bbr", "has no setting bbr"),
        ] {
            let said = Argument::parse(text).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
