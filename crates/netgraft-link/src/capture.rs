//! A link whose frames are shown to a function.

use netgraft_plugin::link::{FrameMeta, Link};
use netgraft_plugin::{Error, Instant, Result};

/// Which way a captured frame went, as the stack sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// To the stack.
    In,
    /// From the stack.
    Out,
}

/// What sees the frames of a [`Captured`] link. It must not wait for anything.
pub type Viewer = dyn FnMut(Way, Instant, &[u8]) + Send;

/// A link whose frames are shown to a function, as the stack receives and sends them: with offloads, frames may be larger
/// than the link's MTU, and checksums may not be computed yet.
pub struct Captured<L> {
    link: L,
    view: Box<Viewer>,
}

impl<L: Link> Captured<L> {
    /// Wraps a link.
    pub fn new(link: L, view: Box<Viewer>) -> Self {
        Captured { link, view }
    }
}

impl<L: Link> Link for Captured<L> {
    as_the_link_within!();

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let Captured { link, view } = self;
        link.receive(now, limit, &mut |frame| {
            view(Way::In, now, frame);
            deliver(frame);
        })
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        let sent = self.link.send(now, frame, meta);
        // What the link has no room for comes again.
        if sent != Err(Error::Again) {
            (self.view)(Way::Out, now, frame);
        }
        sent
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.link.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::wire;

    #[test]
    fn both_ways_are_seen() {
        let (a, mut b) = wire::ip_pair(1500);
        let (seen, frames) = mpsc::channel();
        let mut a = Captured::new(a, Box::new(move |way, _, frame| seen.send((way, frame[0])).unwrap()));
        a.send(Instant::ZERO, &[1], FrameMeta::default()).unwrap();
        b.send(Instant::ZERO, &[7], FrameMeta::default()).unwrap();
        a.receive(Instant::ZERO, 9, &mut |frame| assert_eq!(frame, [7])).unwrap();
        drop(a);
        assert_eq!(frames.iter().collect::<Vec<_>>(), [(Way::Out, 1), (Way::In, 7)]);
    }
}
