//! Segments and exported connections into `netgraft-tcp`.

use std::time::Duration;

use netgraft_tcp::{Config, Connection, Instant, Options, Pool, Segment};

use crate::bytes::Bytes;

/// The most segments of an input.
const SEGMENTS: usize = 100;
/// The most that a connection may send at once: its window in segments of one byte would be more, but not in these.
const SENT: usize = 20_000;

/// A byte that says what follows: an exported connection (0), or segments for a new one.
pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes(input);
    let mut pool = Pool::new(0);
    let mut now = Instant::from_millis(10_000);
    let connection = match bytes.u8() {
        0 => Connection::import(bytes.slice(usize::MAX), now, &mut pool).ok(),
        _ => Some(Connection::connect(&Config::default(), 1000, now)),
    };
    let Some(mut connection) = connection else {
        assert_eq!(pool.used(), 0, "data that is no connection holds memory");
        return;
    };
    drain(&mut connection, now);
    for _ in 0..SEGMENTS {
        if bytes.is_empty() {
            break;
        }
        let len = usize::from(bytes.u8());
        let raw = bytes.slice(len);
        if let Some(segment) = Segment::parse(raw) {
            let again = emitted(&segment);
            assert_eq!(again, segment.header.options, "options change on the wire");
            connection.input(&segment, now, &mut pool);
        }
        connection.send(raw, len % 2 == 0, now, &mut pool);
        drain(&mut connection, now);
        now = now + Duration::from_millis(u64::from(bytes.u8()) * 10);
        connection.on_time(now);
        drain(&mut connection, now);
    }
    let _ = (connection.info(), connection.export(now));
    connection.abort(&mut pool);
    assert_eq!(pool.used(), 0, "an aborted connection holds memory");
}

/// The options of a segment after they were written and read.
fn emitted(segment: &Segment<'_>) -> Options {
    let options = segment.header.options;
    if options.len() > 40 {
        return options;
    }
    let mut bytes = vec![0; options.len()];
    options.emit(&mut bytes);
    Options::parse(&bytes)
}

fn drain(connection: &mut Connection, now: Instant) {
    let mut sent = 0;
    while let Some(transmit) = connection.transmit(now) {
        let mut bytes = vec![0; transmit.len()];
        connection.write(&transmit, (1, 2), &mut bytes);
        sent += 1;
        assert!(sent < SENT, "it never stops sending");
    }
}
