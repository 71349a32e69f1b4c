//! Congestion control: what every algorithm has to say. Read RFC 5681 section 3, RFC 6928 section 2 and RFC 9002's
//! appendix B for the same in another protocol, first.

use std::time::Duration;

use crate::bbr::Bbr;
use crate::cubic::Cubic;
use crate::newreno::NewReno;
use crate::rate::RateSample;
use crate::time::Instant;

/// The state that the algorithms share with the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The congestion window, in bytes.
    pub congestion: u64,
    /// The slow start threshold, in bytes.
    pub threshold: u64,
    /// The largest payload of a segment, in bytes.
    pub mss: u64,
    /// Bytes per second at which data leaves, if it is paced.
    pub pacing: Option<u64>,
}

impl Window {
    pub(crate) fn new(mss: u64) -> Self {
        Window { congestion: initial(mss), threshold: u64::MAX, mss, pacing: None }
    }

    /// Whether the window grows by what is acknowledged (RFC 5681 section 3.1).
    #[must_use]
    pub fn in_slow_start(&self) -> bool {
        self.congestion < self.threshold
    }
}

/// The initial window: "min (10*MSS, max (2*MSS, 14600))" (RFC 6928 section 2).
pub(crate) fn initial(mss: u64) -> u64 {
    (10 * mss).min((2 * mss).max(14_600))
}

/// An acknowledgement, as an algorithm sees it.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// When it came.
    pub now: Instant,
    /// Bytes that it delivered, in order or not.
    pub delivered: u64,
    /// Positions that it newly acknowledged in order.
    pub advanced: u64,
    /// Bytes that it showed to be lost.
    pub lost: u64,
    /// The round trip that it measured.
    pub rtt: Option<Duration>,
    /// The smoothed round trip.
    pub smoothed: Duration,
    /// The shortest of the last minutes.
    pub least: Option<Duration>,
    /// Bytes in flight before and after.
    pub in_flight: (u64, u64),
    /// Whether the window, and neither the program nor the peer, limits what is sent.
    pub limited: bool,
    /// Whether losses are being repaired.
    pub recovering: bool,
    /// Bytes delivered in all.
    pub total: u64,
    /// The position that it acknowledges, and the next that will be sent.
    pub positions: (u64, u64),
    /// The sample of the delivery rate.
    pub sample: RateSample,
}

/// What shows that the path is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Segments were lost.
    Loss,
    /// A router marked a packet (RFC 3168).
    Marked,
    /// The retransmission timer ran out.
    Timeout,
}

/// An algorithm.
pub trait Control {
    /// New data was acknowledged.
    fn acknowledged(&mut self, window: &mut Window, ack: &Acknowledged);

    /// The path is full: sets [`Window::threshold`]. The sender then takes the window there.
    fn congested(&mut self, window: &mut Window, what: Congestion, in_flight: u64, now: Instant);

    /// The last [`Control::congested`] was a mistake; window and threshold are as before.
    fn undone(&mut self, window: &mut Window);

    /// Losses are repaired.
    fn recovered(&mut self, _window: &mut Window) {}

    /// Nothing is in flight, and nothing can be undone any more: gives memory back that was kept for that.
    fn release_idle_memory(&mut self) {}

    /// Sending begins again after `idle` without anything in flight.
    fn resumed(&mut self, window: &mut Window, idle: Duration, timeout: Duration);

    /// Whether it sets the window itself while losses are repaired.
    fn rules_recovery(&self) -> bool {
        false
    }
}

/// Which algorithm a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// None: the peer's window is the only limit. For wires that lose nothing, within one machine.
    Unlimited,
    /// RFC 5681 and RFC 6582.
    NewReno,
    /// RFC 9438 with RFC 9406.
    #[default]
    Cubic,
    /// BBR version 3 (draft-ietf-ccwg-bbr).
    Bbr,
}

impl Algorithm {
    /// All that a program may choose.
    pub const ALL: [Algorithm; 3] = [Algorithm::Cubic, Algorithm::NewReno, Algorithm::Bbr];

    /// The name that Linux has for it (`TCP_CONGESTION`, tcp(7)).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Unlimited => "none",
            Algorithm::NewReno => "reno",
            Algorithm::Cubic => "cubic",
            Algorithm::Bbr => "bbr",
        }
    }
}

/// No algorithm.
#[derive(Debug)]
pub(crate) struct Unlimited;

/// A window that nothing exceeds.
const ENDLESS: u64 = 1 << 40;

impl Control for Unlimited {
    fn acknowledged(&mut self, window: &mut Window, _ack: &Acknowledged) {
        window.congestion = ENDLESS;
    }
    fn congested(&mut self, window: &mut Window, _what: Congestion, _in_flight: u64, _now: Instant) {
        window.threshold = ENDLESS;
        window.congestion = ENDLESS;
    }
    fn undone(&mut self, _window: &mut Window) {}
    fn resumed(&mut self, _window: &mut Window, _idle: Duration, _timeout: Duration) {}
    fn rules_recovery(&self) -> bool {
        true
    }
}

/// The algorithm of a connection.
#[derive(Debug)]
pub(crate) enum Controller {
    Unlimited(Unlimited),
    NewReno(NewReno),
    Cubic(Box<Cubic>),
    Bbr(Box<Bbr>),
}

impl Controller {
    /// Begins with an algorithm; sets what it needs of the window.
    pub(crate) fn new(algorithm: Algorithm, window: &mut Window, now: Instant) -> Self {
        window.pacing = None;
        match algorithm {
            Algorithm::Unlimited => {
                window.congestion = ENDLESS;
                Controller::Unlimited(Unlimited)
            }
            Algorithm::NewReno => Controller::NewReno(NewReno),
            Algorithm::Cubic => Controller::Cubic(Box::default()),
            Algorithm::Bbr => Controller::Bbr(Box::new(Bbr::new(window, now))),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Controller::Unlimited(_) => Algorithm::Unlimited,
            Controller::NewReno(_) => Algorithm::NewReno,
            Controller::Cubic(_) => Algorithm::Cubic,
            Controller::Bbr(_) => Algorithm::Bbr,
        }
    }

    /// Bytes of memory beside its own place.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Controller::Unlimited(_) | Controller::NewReno(_) => 0,
            Controller::Cubic(_) => size_of::<Cubic>(),
            Controller::Bbr(_) => size_of::<Bbr>(),
        }
    }

    pub(crate) fn get(&mut self) -> &mut dyn Control {
        match self {
            Controller::Unlimited(control) => control,
            Controller::NewReno(control) => control,
            Controller::Cubic(control) => control.as_mut(),
            Controller::Bbr(control) => control.as_mut(),
        }
    }
}

/// The window after an idle time: "If the TCP has not sent data in an interval exceeding the retransmission timeout",
/// no more than the initial window may leave at once (RFC 5681 section 4.1). As Linux has it, the window is halved for
/// each time-out that has passed.
pub(crate) fn restart(window: &mut Window, idle: Duration, timeout: Duration) {
    if idle <= timeout {
        return;
    }
    window.threshold = window.threshold.max(window.congestion / 4 * 3);
    let least = initial(window.mss).min(window.congestion);
    let times = idle.as_nanos() / timeout.as_nanos().max(1);
    let halved = window.congestion >> times.min(63);
    window.congestion = halved.max(least);
}
