//! The stack's loop: timers, sockets that have something to send, packets that came.

use std::time::Duration;

use netgraft_link::Way;
use netgraft_plugin::{Error, Event, Handle, Instant};

use crate::core::Core;
use crate::iface::Side;
use crate::neighbor::question;
use crate::sock::Body;

/// What one call of `poll` does at most: packets and sockets, a packet of 64 KiB counts as nine.
const BUDGET: usize = 4096;
/// Frames taken off the link before sockets have their turn, so that peers do not wait long for acknowledgements.
const BATCH: usize = 32;
/// How often multicast reports are looked for after a query.
const REPORT: Duration = Duration::from_millis(100);
/// When a link that has no room is tried again.
const LINK_RETRY: Duration = Duration::from_millis(1);

fn cost(bytes: usize) -> usize {
    1 + bytes / 8192
}

impl Core {
    pub(crate) fn poll(&mut self, now: Instant) {
        self.tick(now);
        self.fire();
        let mut left = BUDGET;
        loop {
            let before = left;
            self.run_dirty(&mut left);
            self.run_loopback(&mut left);
            self.flush_link();
            self.run_link(&mut left);
            self.unblock();
            if left == before || left == 0 {
                break;
            }
        }
        self.flush_link();
        if let Some((recorder, _)) = &self.capture {
            recorder.flush(self.now);
        }
    }

    /// Fires the timers that are due.
    fn fire(&mut self) {
        while let Some((handle, at)) = self.timers.pop(self.now) {
            let Some(sock) = self.socks.get_mut(handle) else { continue };
            // Of several entries of a socket, the earliest counts; the others were left behind.
            if sock.armed == Some(at) {
                sock.armed = None;
                self.mark_dirty(handle);
            }
        }
        while let Some((tuple, old)) = self.time_waits.expire(self.now) {
            self.tcp_ports.remove_connection(tuple.local(), old.sharing);
        }
        if self.conduits.next().is_some_and(|at| at <= self.now) {
            self.neighbors_may_have_come();
        }
        if let Some(until) = self.reports_until {
            if let Some(link) = &mut self.net.link {
                link.egress_own(self.now);
            }
            if self.now >= until {
                self.reports_until = None;
            }
        }
    }

    fn run_dirty(&mut self, left: &mut usize) {
        for _ in 0..self.dirty.len() {
            if *left == 0 {
                return;
            }
            let Some(handle) = self.dirty.pop_front() else { return };
            let sent = self.service(handle);
            *left = left.saturating_sub(1 + sent);
        }
    }

    fn run_loopback(&mut self, left: &mut usize) {
        for _ in 0..self.net.lo.tx.len() {
            if *left == 0 {
                return;
            }
            let Some(frame) = self.net.lo.tx.pop() else { return };
            if let Some((recorder, lo)) = &self.capture {
                recorder.frame(*lo, Way::In, self.now, frame.bytes());
            }
            self.input(Side::Loopback, frame.bytes());
            *left = left.saturating_sub(cost(frame.bytes().len()));
            self.net.lo.tx.recycle(frame);
        }
    }

    fn run_link(&mut self, left: &mut usize) {
        let Some(mut link) = self.link.take() else { return };
        while *left > 0 && !self.link_down {
            let mut spent = 0;
            let got = link.receive(self.now, BATCH, &mut |frame| {
                spent += cost(frame.len());
                self.input(Side::Link, frame);
            });
            *left = left.saturating_sub(spent);
            match got {
                // Sockets have their turn; what is left follows in the next round.
                Ok(_) | Err(Error::Again) => break,
                Err(error) => self.lose_link(error),
            }
        }
        while let Some(address) = link.withdrawn() {
            self.give_up(address);
        }
        self.link = Some(link);
    }

    /// Gives the link what is queued for it.
    pub(crate) fn flush_link(&mut self) {
        let (Some(link), Some(netif)) = (&mut self.link, &mut self.net.link) else { return };
        if netif.tx.is_empty() {
            return;
        }
        if self.link_down {
            return netif.tx.clear();
        }
        let mut result = Ok(());
        let mut fixed = Vec::new();
        while let Some(frame) = netif.tx.pop() {
            if let Some(ip) = question(frame.bytes()).filter(|_| netif.mac.is_some()) {
                if let Some(mac) = self.neighbors.fixed(ip) {
                    fixed.push((ip, mac));
                    netif.tx.recycle(frame);
                    continue;
                }
                self.neighbors.questioned(ip, self.now);
            }
            result = link.send(self.now, frame.bytes(), frame.meta);
            if result == Err(Error::Again) {
                result = link.flush(self.now);
                if result.is_ok() {
                    result = link.send(self.now, frame.bytes(), frame.meta);
                }
            }
            match result {
                Ok(()) => netif.tx.recycle(frame),
                Err(_) => {
                    netif.tx.unpop(frame);
                    break;
                }
            }
        }
        let flushed = link.flush(self.now);
        for outcome in [result, flushed] {
            if let Err(error) = outcome
                && error != Error::Again
            {
                self.lose_link(error);
            }
        }
        // smoltcp asks for those, too, whom the operator has named.
        for (ip, mac) in fixed {
            self.tell_interface(ip, mac);
        }
    }

    /// The device is gone: the sockets see silence, and the interface is down.
    fn lose_link(&mut self, error: Error) {
        if let Some(netif) = &mut self.net.link {
            netif.tx.clear();
        }
        if error == Error::NetworkDown {
            self.link_down = true;
            // It does not come back, so nobody is to wait for what is lost.
            let over: Vec<Handle> = self.connections.values().copied().collect();
            for handle in over {
                let sock = self.socks.get(handle);
                if sock.is_some_and(|sock| matches!(&sock.body, Body::Conn(conn) if conn.side == Side::Link))
                {
                    self.end(handle, Some(Error::NetworkDown));
                }
            }
        }
    }

    /// When to poll again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let stuck = self.net.link.as_ref().is_some_and(|l| !l.tx.is_empty()) && !self.link_down;
        if !self.dirty.is_empty() || !self.net.lo.tx.is_empty() {
            return Some(self.now);
        }
        [
            self.timers.next(),
            self.time_waits.next(),
            self.conduits.next(),
            self.reports_until.map(|_| self.now + REPORT),
            self.link.as_ref().filter(|_| !self.link_down).and_then(|l| l.next_deadline()),
            stuck.then(|| self.now + LINK_RETRY),
            self.capture.as_ref().and_then(|(recorder, _)| recorder.next_deadline()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Reports events until none is left or `sink` has enough.
    pub(crate) fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        while let Some(handle) = self.queue.pop() {
            let Some(sock) = self.socks.get_mut(handle) else { continue };
            let events = sock.info.take();
            if !events.is_empty() && !sink(Event { handle, events }) {
                return;
            }
        }
    }
}
