//! Finds the first rule that is about an address and a port, without looking at all of them: rules are kept by the length of
//! their prefix, and by the prefix.

use std::collections::HashMap;
use std::net::IpAddr;

use super::place::{Net, masked, width};
use super::rule::Rule;

/// Rules of one direction and protocol.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Those about all addresses, the first one first.
    any: Vec<usize>,
    /// Width and length of prefixes that there are.
    lengths: Vec<(u8, u8)>,
    by_prefix: HashMap<(IpAddr, u8), Vec<usize>>,
}

impl Index {
    /// Adds a rule; they come in their order.
    pub(super) fn add(&mut self, number: usize, net: &Net) {
        match *net {
            Net::Any => self.any.push(number),
            Net::Prefix(ip, length) => {
                if !self.lengths.contains(&(width(ip), length)) {
                    self.lengths.push((width(ip), length));
                }
                self.by_prefix.entry((ip, length)).or_default().push(number);
            }
        }
    }

    /// The first rule about an address and a port that counts.
    pub(super) fn first(
        &self,
        rules: &[Rule],
        ip: IpAddr,
        port: u16,
        counts: impl Fn(&Rule) -> bool,
    ) -> Option<usize> {
        let own_width = width(ip);
        let lists = self
            .lengths
            .iter()
            .filter(|&&(width, _)| width == own_width)
            .filter_map(|&(_, length)| self.by_prefix.get(&(masked(ip, length), length)));
        let is_it = |number: usize| rules.get(number).is_some_and(|rule| rule.has_port(port) && counts(rule));
        let mut best = None;
        for list in lists.chain([&self.any]) {
            let found = list
                .iter()
                .copied()
                .take_while(|&number| best.is_none_or(|best| number < best))
                .find(|&number| is_it(number));
            best = found.or(best);
        }
        best
    }
}
