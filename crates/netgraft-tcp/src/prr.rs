//! Proportional rate reduction: how fast data leaves while losses are repaired. Read RFC 6937 sections 3 and 3.1, and
//! RFC 9937, which has the heuristic between its two bounds, first.

/// The counters of one recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prr {
    /// Bytes delivered and sent in this recovery.
    delivered: u64,
    sent: u64,
    /// Bytes in flight as it began ("RecoverFS").
    began_with: u64,
}

impl Prr {
    pub(crate) fn new(in_flight: u64) -> Self {
        Prr { began_with: in_flight.max(1), ..Prr::default() }
    }

    pub(crate) fn has_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The congestion window after an acknowledgement that delivered `delivered` bytes. `safe` says that it
    /// acknowledged new data and told of no new loss.
    pub(crate) fn window(
        &mut self,
        delivered: u64,
        in_flight: u64,
        target: u64,
        mss: u64,
        safe: bool,
    ) -> u64 {
        self.delivered += delivered;
        let room = if in_flight > target {
            // "Proportional Rate Reduction: sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out"
            let share = u128::from(self.delivered) * u128::from(target);
            let share = share.div_ceil(u128::from(self.began_with)) as u64;
            share.saturating_sub(self.sent)
        } else {
            // PRR-SSRB after a safe acknowledgement, PRR-CRB otherwise.
            let mut limit = self.delivered.saturating_sub(self.sent).max(delivered);
            if safe {
                limit += mss;
            }
            limit.min(target - in_flight)
        };
        // "Force a fast retransmit upon entering recovery".
        let room = if self.sent == 0 { room.max(mss) } else { room };
        in_flight + room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loss_halves_the_rate_over_a_round_trip() {
        // Ten segments in flight, one lost, target seven: of nine acknowledgements seven let a segment out.
        let (mut prr, mut in_flight) = (Prr::new(10), 9);
        let mut sent = 0;
        for _ in 0..9 {
            in_flight -= 1;
            let window = prr.window(1, in_flight, 7, 1, false);
            let out = window - in_flight;
            prr.has_sent(out);
            in_flight += out;
            sent += out;
        }
        assert_eq!((sent, in_flight), (7, 7));
    }

    #[test]
    fn after_heavy_loss_it_grows_by_what_is_delivered() {
        let mut prr = Prr::new(20);
        assert_eq!(prr.window(1, 3, 10, 1, false), 4);
        prr.has_sent(1);
        // A safe acknowledgement lets one more out.
        assert_eq!(prr.window(1, 3, 10, 1, true), 5);
    }
}
