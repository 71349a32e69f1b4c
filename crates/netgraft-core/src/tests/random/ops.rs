//! What a sequence is made of. An op names what it works on by a number that is taken modulo what there is, so that a
//! sequence still means something when a part is taken out.

use super::super::fake::prng::Prng;

/// A step of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) what: What,
    /// Which thread makes the call.
    pub(crate) thread: usize,
    /// Which descriptor or remote host it is about.
    pub(crate) at: usize,
    /// How much, to which address, or which variant.
    pub(crate) size: usize,
    /// What the sentry does next.
    pub(crate) then: Then,
}

/// What the sentry does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is not woken.
    Nothing,
    /// One round.
    Round,
    /// All that there is to do.
    Settle,
}

macro_rules! whats {
    ($($name:ident: $weight:literal)*) => {
        /// What happens in a step.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum What { $($name,)* }

        /// Every step, and how often it happens.
        const WEIGHTS: &[(What, usize)] = &[$((What::$name, $weight),)*];
    };
}

whats! {
    Tcp: 6
    TcpNonblocking: 5
    Udp: 3
    Connect: 10
    ConnectHere: 6
    Listen: 5
    Accept: 6
    AcceptUntrapped: 4
    Write: 12
    Read: 12
    RecvFrom: 7
    SendTo: 5
    ConnectUdp: 2
    Shutdown: 5
    Close: 7
    Dup: 2
    Disconnect: 2
    SoError: 3
    Names: 2
    Option: 2
    Timeout: 1
    RemoteSends: 10
    RemoteReads: 8
    RemoteEnds: 3
    RemoteFails: 2
    RemoteDials: 7
    RemoteAnswers: 6
    Arrives: 4
    UdpFails: 2
    UdpRoom: 2
    Interrupt: 4
    InterruptAnswer: 2
    InterruptInject: 1
    Kill: 1
    Time: 4
    NoRoom: 1
    FullTable: 1
    StackRefuses: 3
    SpuriousEvents: 2
}

/// The sequence of a seed.
pub(crate) fn sequence(seed: u64) -> Vec<Op> {
    let mut prng = Prng::new(seed);
    let total: usize = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let len = 10 + prng.below(60);
    // Some sequences have no time-outs, so that no call may say EAGAIN that may wait.
    let with_timeouts = prng.one_in(3);
    let mut ops = Vec::with_capacity(len);
    while ops.len() < len {
        let mut pick = prng.below(total);
        let found = WEIGHTS.iter().find(|(_, weight)| {
            let here = pick < *weight;
            pick = pick.wrapping_sub(*weight);
            here
        });
        let what = found.unwrap().0;
        if what == What::Timeout && !with_timeouts {
            continue;
        }
        let size = match prng.below(4) {
            0 => prng.below(4),
            1 | 2 => prng.below(300),
            _ => prng.below(30_000),
        };
        let then = match prng.below(5) {
            0 => Then::Nothing,
            1 => Then::Round,
            _ => Then::Settle,
        };
        ops.push(Op { what, thread: prng.below(3), at: prng.below(1000), size, then });
    }
    ops
}

/// The sequence that bytes are, seven for a step, and a hundred steps at most.
#[cfg(feature = "fuzzing")]
pub(crate) fn of_bytes(bytes: &[u8]) -> Vec<Op> {
    let op = |b: &[u8]| {
        let &[what, thread, at0, at1, size0, size1, then] = b else { return None };
        let (what, _) = WEIGHTS[usize::from(what) % WEIGHTS.len()];
        let size = usize::from(u16::from_le_bytes([size0, size1])) % 30_000;
        let then = [Then::Nothing, Then::Round, Then::Settle][usize::from(then % 3)];
        let at = usize::from(u16::from_le_bytes([at0, at1])) % 1000;
        // Time-outs are left to the sequences of the tests, which know of them from the start.
        (what != What::Timeout).then_some(Op { what, thread: usize::from(thread % 3), at, size, then })
    };
    bytes.chunks_exact(7).take(100).filter_map(op).collect()
}
