//! What a connection says of itself (`TCP_INFO`, tcp(7)).

use std::time::Duration;

use crate::connection::{Connection, State};
use crate::recovery::Phase;
use crate::sender::Counts;
use crate::seq::FIRST;

/// What is being done about losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repair {
    /// Nothing is missing, as far as is known.
    Nothing,
    /// The peer has something out of order.
    Disorder,
    /// A router said that the path is full (RFC 3168): the window shrinks.
    Reduced,
    /// Losses are being repaired.
    Recovery,
    /// The retransmission time-out has passed.
    Loss,
}

/// Measures of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its state.
    pub state: State,
    /// Smoothed round trip, its variation, and the shortest of the last five minutes; zero before the first.
    pub rtt: Duration,
    /// See [`Info::rtt`].
    pub rtt_variation: Duration,
    /// See [`Info::rtt`].
    pub rtt_least: Duration,
    /// The retransmission time-out.
    pub timeout: Duration,
    /// Largest payload sent and received, in bytes.
    pub mss: (u16, u16),
    /// Congestion window and slow start threshold, in bytes.
    pub congestion_window: u64,
    /// See [`Info::congestion_window`].
    pub threshold: u64,
    /// Bytes sent and not acknowledged, those of them that the peer has out of order, and those believed lost.
    pub unacknowledged: u64,
    /// See [`Info::unacknowledged`].
    pub sacked: u64,
    /// See [`Info::unacknowledged`].
    pub lost: u64,
    /// Bytes that were taken and not sent.
    pub unsent: u64,
    /// Segments sent again, and their bytes.
    pub repeated: u32,
    /// See [`Info::repeated`].
    pub repeated_bytes: u64,
    /// Time-outs in a row without an answer.
    pub backoff: u32,
    /// What happened.
    pub counts: Counts,
    /// Windows that the peer and this end offer, in bytes.
    pub windows: (u64, u64),
    /// Bytes of data acknowledged and received in order.
    pub bytes: (u64, u64),
    /// Bytes per second that arrived at the peer, by the last sample.
    pub delivery_rate: u64,
    /// Bytes per second at which data leaves, if it is paced.
    pub pacing_rate: Option<u64>,
    /// What is being done about losses.
    pub phase: Repair,
    /// Which of timestamps, selective acknowledgements, window scaling and ECN are in use.
    pub timestamps: bool,
    /// See [`Info::timestamps`].
    pub sack: bool,
    /// See [`Info::timestamps`].
    pub scaled: bool,
    /// Shifts of the windows that are received and sent.
    pub scales: (u8, u8),
    /// See [`Info::timestamps`].
    pub ecn: bool,
}

impl Connection {
    /// Its measures.
    #[must_use]
    pub fn info(&self) -> Info {
        let (sender, receiver) = (&self.sender, &self.receiver);
        Info {
            state: self.state,
            rtt: sender.smoothed(),
            rtt_variation: sender.rtt.variation(),
            rtt_least: sender.rtt.least().unwrap_or_default(),
            timeout: sender.rtt.timeout(),
            mss: (self.mss(), u16::try_from(receiver.mss).unwrap_or(u16::MAX)),
            congestion_window: sender.window.congestion,
            threshold: sender.window.threshold,
            unacknowledged: sender.next - sender.una,
            sacked: sender.board.sacked(),
            lost: sender.board.lost(),
            unsent: self.unsent() as u64,
            repeated: sender.repeats,
            repeated_bytes: sender.repeated_bytes,
            backoff: sender.rtt.backoff,
            counts: sender.counts,
            windows: (sender.edge.saturating_sub(sender.una), receiver.edge.saturating_sub(receiver.next)),
            bytes: (
                sender.una.saturating_sub(FIRST + 1),
                receiver.next.saturating_sub(FIRST + 1 + u64::from(receiver.is_over())),
            ),
            delivery_rate: sender.rate.last,
            pacing_rate: sender.window.pacing,
            phase: match sender.phase {
                Phase::Open if sender.board.sacked() > 0 => Repair::Disorder,
                Phase::Open => Repair::Nothing,
                Phase::Recovery { losses: false, .. } => Repair::Reduced,
                Phase::Recovery { .. } => Repair::Recovery,
                Phase::Loss { .. } => Repair::Loss,
            },
            timestamps: self.stamps.is_some(),
            sack: sender.selective,
            scaled: self.handshake.scaling.is_some(),
            scales: (sender.shift, receiver.shift),
            ecn: self.ecn,
        }
    }
}
