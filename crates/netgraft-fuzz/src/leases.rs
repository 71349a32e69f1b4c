//! What comes to the processes beside the sentry: offers of addresses, and blocks of a capture.

use std::time::Duration;

use netgraft_link::lease::Acquire;
use netgraft_link::pcap::{self, Part};
use netgraft_plugin::Instant;

use crate::bytes::Bytes;

/// The client's address.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Most questions that are asked in the time that a client takes.
const QUESTIONS: usize = 200;

/// Frames, each behind its length and the time that passes before it. The rest of the time passes at the end: a client ends,
/// and what it has got is addresses.
pub(crate) fn leases(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut client = Acquire::new(OURS, 0x1234);
    let mut now = Instant::from_millis(10);
    let mut questions = 0;
    let mut send = |frame: &[u8]| {
        assert!(frame.len() <= 1514 && frame.get(6..12) == Some(&OURS), "a question that is none");
        questions += 1;
    };
    while !bytes.is_empty() {
        let (wait, len) = (bytes.u8(), usize::from(bytes.u16() % 1600));
        now = now + Duration::from_millis(u64::from(wait));
        client.poll(now, &mut send);
        client.input(now, bytes.slice(len));
    }
    for _ in 0..QUESTIONS {
        now = now.max(client.next_deadline());
        if !client.poll(now, &mut send) {
            break;
        }
    }
    assert!(!client.poll(now + Duration::from_secs(60), &mut send), "a client that never ends");
    for cidr in &client.lease().addresses {
        assert_eq!(cidr.to_string().parse(), Ok(*cidr));
    }
}

/// Blocks, one after the other as the process that writes the file takes them.
pub(crate) fn captures(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((len, part)) = pcap::block_at(rest) {
        assert!((12..=rest.len()).contains(&len), "a block beyond what there is");
        if let Part::Frame { missing } = part {
            assert!(missing == 0 || len >= 32 + 12, "frames are missing of a block without options");
        }
        rest = &rest[len..];
    }
}
