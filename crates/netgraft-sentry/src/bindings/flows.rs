//! [`FlowSink`]: flows go to a process that writes them ([`netgraft_launch::flows`]), several a message, and nothing waits for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netgraft_core::{FlowEnd, FlowRecord, FlowSink, ProcessName};
use netgraft_launch::flows::{DENIED, FlowEntry, FlowLine, MESSAGE};
use netgraft_linux::{task, unix};

use super::Bindings;

/// How much waits to be sent at most; what comes beyond that is lost.
const MOST: usize = 1 << 20;
/// The most bytes that two ends of lines and a line about lost ones have.
const LOST: usize = 64;
/// How much is gathered before it is sent in any case.
const ENOUGH: usize = 32 << 10;

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct FlowsOut {
    socket: OwnedFd,
    /// Whole lines.
    waiting: Vec<u8>,
    /// How much of them was sent.
    sent: usize,
    /// Flows that found no room since the last line.
    lost: u64,
}

impl FlowsOut {
    pub(crate) fn new(socket: OwnedFd) -> FlowsOut {
        FlowsOut { socket, waiting: Vec::new(), sent: 0, lost: 0 }
    }

    fn record(&mut self, line: &FlowLine) {
        // Half of what a message has room for: a hostile name must not make one that no message can carry.
        let text = serde_json::to_vec(line).ok().filter(|text| text.len() < MESSAGE / 2);
        match text.filter(|text| self.waiting.len() + text.len() + LOST < MOST) {
            Some(text) => {
                if self.lost > 0 {
                    let lost = FlowLine::Lost { lost: std::mem::take(&mut self.lost) };
                    self.waiting.extend(serde_json::to_vec(&lost).unwrap_or_default());
                    self.waiting.push(b'\n');
                }
                self.waiting.extend(text);
                self.waiting.push(b'\n');
            }
            None => self.lost += 1,
        }
        if self.waiting.len() - self.sent >= ENOUGH {
            self.flush();
        }
    }

    /// Sends what there is room for. Whether nothing waits any more.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let most = rest.get(..MESSAGE.min(rest.len())).unwrap_or(rest);
            let end = most.iter().rposition(|&byte| byte == b'\n').map_or(most.len(), |end| end + 1);
            match unix::send(self.socket.as_fd(), most.get(..end).unwrap_or(most)) {
                Ok(_) => self.sent += end,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    // Nobody writes them any more.
                    self.sent = self.waiting.len();
                }
            }
        }
        self.waiting.clear();
        self.sent = 0;
        true
    }
}

impl Bindings {
    /// Sends the flows of this round, as far as there is room. Whether nothing waits any more.
    pub(crate) fn flush_flows(&mut self) -> bool {
        self.flows.as_mut().is_none_or(FlowsOut::flush)
    }
}

impl FlowSink for Bindings {
    fn flow(&mut self, record: FlowRecord) {
        if let Some(flows) = &mut self.flows {
            flows.record(&FlowLine::Flow(Box::new(entry(record))));
        }
    }

    fn process_name(&mut self, tid: u32) -> Option<ProcessName> {
        task::executable(tid).map(|(pid, executable)| ProcessName { pid, executable })
    }
}

fn entry(record: FlowRecord) -> FlowEntry {
    let seconds = |time: Duration| time.as_micros() as f64 / 1e6;
    let (pid, executable) =
        record.process.map_or((None, None), |process| (Some(process.pid), process.executable));
    FlowEntry {
        start: seconds(record.began),
        end: seconds(record.ended),
        direction: record.direction,
        protocol: record.protocol,
        local: record.local,
        remote: record.remote,
        pid,
        executable,
        joined: record.joined,
        bytes_sent: record.sent.map(|sent| sent.bytes),
        bytes_received: record.received.map(|received| received.bytes),
        packets_sent: record.sent.and_then(|sent| sent.packets),
        packets_received: record.received.and_then(|received| received.packets),
        retransmits: record.retransmits,
        ended: match record.end {
            FlowEnd::Closed => "closed".to_owned(),
            FlowEnd::Reset => "reset".to_owned(),
            FlowEnd::Failed(error) => error.to_string(),
            FlowEnd::Denied => DENIED.to_owned(),
            FlowEnd::Killed => "killed".to_owned(),
            FlowEnd::Idle => "idle".to_owned(),
            FlowEnd::TooMany => "too many".to_owned(),
            FlowEnd::Stopped => "stopped".to_owned(),
            _ => "over".to_owned(),
        },
        rule: record.rule,
        unrecorded: (record.unrecorded > 0).then_some(record.unrecorded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_core::policy::{Direction, Protocol};
    use netgraft_linux::fdpass;

    fn record(executable: String) -> FlowLine {
        let process = Some(ProcessName { pid: 7, executable: Some(executable) });
        let amount = netgraft_core::Amount { bytes: 5, packets: None };
        FlowLine::Flow(Box::new(entry(FlowRecord {
            began: Duration::new(1_700_000_000, 250_000_000),
            ended: Duration::new(1_700_000_001, 0),
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            local: None,
            remote: Some("198.51.100.1:80".parse().unwrap()),
            process,
            joined: false,
            sent: Some(amount),
            received: Some(amount),
            retransmits: Some(0),
            end: FlowEnd::Closed,
            rule: None,
            unrecorded: 0,
        })))
    }

    #[test]
    fn a_writer_that_does_not_read_costs_flows_and_no_time() {
        let (ours, theirs) = fdpass::pair().unwrap();
        unix::set_nonblocking(theirs.as_fd(), true).unwrap();
        let mut out = FlowsOut::new(theirs);
        let long = record("x".repeat(1000));
        for _ in 0..5000 {
            out.record(&long);
        }
        let all = out.flush();
        assert!(
            !all && out.lost > 0 && out.waiting.len() <= MOST,
            "{all} {} {}",
            out.lost,
            out.waiting.len()
        );
        let lost = out.lost;
        let (mut seen, mut told) = (0, 0);
        let mut take = || {
            let Some((message, _)) = fdpass::receive(ours.as_fd(), MESSAGE).unwrap() else { return false };
            for line in message.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line).unwrap() {
                    FlowLine::Flow(_) => seen += 1,
                    FlowLine::Lost { lost } => told += lost,
                }
            }
            true
        };
        while !out.flush() {
            assert!(take());
        }
        assert_eq!(out.lost, lost, "said with the next one");
        out.record(&long);
        while !out.flush() {
            assert!(take());
        }
        assert_eq!(out.lost, 0);
        drop(out);
        while take() {}
        assert_eq!((seen + told, told), (5001, lost), "each flow has a line or is counted");
    }

    #[test]
    fn a_line_that_no_message_can_carry_is_lost() {
        let (_ours, theirs) = fdpass::pair().unwrap();
        let mut out = FlowsOut::new(theirs);
        out.record(&record("x".repeat(MESSAGE)));
        assert_eq!((out.lost, out.waiting.len()), (1, 0));
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        let FlowLine::Flow(flow) = record("/bin/x".to_owned()) else { panic!("no flow") };
        assert_eq!((flow.start, flow.end, flow.bytes_sent), (1_700_000_000.25, 1_700_000_001.0, Some(5)));
    }
}
