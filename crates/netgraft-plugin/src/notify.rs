//! Which events a socket waits for, and which it has.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::socket::Handle;

/// Tells a stack which events of a socket are waited for.
///
/// A stack reports events only for handles that were added, and only those in the mask, plus ERR and HUP,
/// which are always reported (as epoll_ctl(2) does). If some of them hold already when the handle is added or
/// updated, they are reported at once: no event is lost between a call that said [`crate::Error::Again`] and
/// the registration.
pub trait PluginNotifier {
    /// Starts reporting `mask` for a socket.
    ///
    /// # Errors
    /// [`crate::Error::BadHandle`], or [`crate::Error::Exists`] if the handle was added before.
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;

    /// Replaces the mask.
    ///
    /// # Errors
    /// [`crate::Error::BadHandle`] if the handle was not added.
    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;

    /// Stops reporting. Closing a socket does the same.
    ///
    /// # Errors
    /// [`crate::Error::BadHandle`] if the handle was not added.
    fn remove_fd(&mut self, handle: Handle) -> Result<()>;
}

/// The readiness bookkeeping of one socket: what is waited for, what is there, and whether the socket stands
/// in the wait queue. Kept by a stack beside each of its sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventInfo {
    /// Events that are waited for; `None` while the handle is not registered.
    mask: Option<Events>,
    /// Events that the socket has now.
    ready: Events,
    /// Whether the socket is queued already, so that it is queued once.
    waiting: bool,
}

impl EventInfo {
    /// The registered mask.
    #[must_use]
    pub const fn mask(&self) -> Option<Events> {
        self.mask
    }

    /// What the socket was last said to be ready for.
    #[must_use]
    pub const fn ready(&self) -> Events {
        self.ready
    }

    /// Whether the socket stands in a wait queue.
    #[must_use]
    pub const fn waiting(&self) -> bool {
        self.waiting
    }

    /// Leaves the wait queue: what is to be reported now, possibly nothing any more.
    pub fn take(&mut self) -> Events {
        self.waiting = false;
        self.reportable()
    }

    /// The part of `ready` that is to be reported.
    #[must_use]
    pub fn reportable(&self) -> Events {
        self.mask.map_or(Events::empty(), |m| self.ready & (m | Events::ERR | Events::HUP))
    }
}

/// The sockets of one stack that have something to report, each once, in the order in which it came up.
///
/// Cost is constant for each call: a socket without news costs nothing.
#[derive(Debug, Default)]
pub struct WaitQueue {
    queue: VecDeque<Handle>,
}

impl WaitQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What [`PluginNotifier::add_fd`] does for a socket that exists and whose readiness is kept up to date with
    /// [`WaitQueue::set_ready`] or [`WaitQueue::notify`].
    ///
    /// # Errors
    /// [`Error::Exists`] if it was added before.
    pub fn add(&mut self, handle: Handle, info: &mut EventInfo, mask: Events) -> Result<()> {
        if info.mask.is_some() {
            return Err(Error::Exists);
        }
        self.set_mask(handle, info, Some(mask));
        Ok(())
    }

    /// What [`PluginNotifier::update_fd`] does, and with `None` [`PluginNotifier::remove_fd`].
    ///
    /// # Errors
    /// [`Error::BadHandle`] if it was not added.
    pub fn change(&mut self, handle: Handle, info: &mut EventInfo, mask: Option<Events>) -> Result<()> {
        if info.mask.is_none() {
            return Err(Error::BadHandle);
        }
        self.set_mask(handle, info, mask);
        Ok(())
    }

    /// Registers or changes the mask; queues the socket if it has some of the events already.
    pub fn set_mask(&mut self, handle: Handle, info: &mut EventInfo, mask: Option<Events>) {
        info.mask = mask;
        self.enqueue(handle, info);
    }

    /// Sets what the socket is ready for now, and queues it if that brings an event which is waited for and
    /// was not there before.
    pub fn set_ready(&mut self, handle: Handle, info: &mut EventInfo, ready: Events) {
        let before = info.reportable();
        info.ready = ready;
        if !(info.reportable() - before).is_empty() {
            self.enqueue(handle, info);
        }
    }

    /// Sets what the socket is ready for now and queues it even if nothing is new: more data came, or more
    /// room appeared, and an edge-triggered waiter must hear of it.
    pub fn notify(&mut self, handle: Handle, info: &mut EventInfo, ready: Events) {
        info.ready = ready;
        self.enqueue(handle, info);
    }

    /// Whether nothing is to be reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Does what [`crate::PluginStack::drain_events`] is to do: `take` answers [`EventInfo::take`] of a socket, or
    /// nothing if it is gone.
    pub fn drain(&mut self, mut take: impl FnMut(Handle) -> Events, sink: &mut dyn FnMut(Event) -> bool) {
        while let Some(handle) = self.pop() {
            let events = take(handle);
            if !events.is_empty() && !sink(Event { handle, events }) {
                return;
            }
        }
    }

    /// Takes the first socket off the queue. The stack looks up its bookkeeping, if the socket still exists,
    /// and reports [`EventInfo::take`].
    pub fn pop(&mut self) -> Option<Handle> {
        self.queue.pop_front()
    }

    fn enqueue(&mut self, handle: Handle, info: &mut EventInfo) {
        if !info.waiting && !info.reportable().is_empty() {
            info.waiting = true;
            self.queue.push_back(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_queued_once_and_reports_only_its_mask() {
        let (mut wq, mut info) = (WaitQueue::new(), EventInfo::default());
        wq.set_ready(Handle(7), &mut info, Events::IN | Events::OUT);
        assert!(wq.is_empty(), "not registered yet");
        wq.set_mask(Handle(7), &mut info, Some(Events::IN));
        wq.notify(Handle(7), &mut info, Events::IN | Events::OUT);
        assert_eq!(wq.pop(), Some(Handle(7)));
        assert_eq!(info.take(), Events::IN);
        assert_eq!(wq.pop(), None, "queued once");
    }

    #[test]
    fn a_socket_is_added_once_and_changed_only_while_added() {
        let (mut wq, mut info) = (WaitQueue::new(), EventInfo::default());
        wq.set_ready(Handle(3), &mut info, Events::OUT);
        assert_eq!(wq.change(Handle(3), &mut info, None), Err(Error::BadHandle));
        assert_eq!(wq.add(Handle(3), &mut info, Events::OUT), Ok(()));
        assert_eq!(wq.add(Handle(3), &mut info, Events::OUT), Err(Error::Exists));
        let mut seen = Vec::new();
        wq.drain(|_| info.take(), &mut |event| {
            seen.push(event);
            true
        });
        assert_eq!(seen, [Event { handle: Handle(3), events: Events::OUT }]);
        assert_eq!(wq.change(Handle(3), &mut info, None), Ok(()));
        assert_eq!(info.mask(), None);
    }

    #[test]
    fn errors_are_always_reported() {
        let (mut wq, mut info) = (WaitQueue::new(), EventInfo::default());
        wq.set_mask(Handle(2), &mut info, Some(Events::empty()));
        wq.set_ready(Handle(2), &mut info, Events::ERR | Events::OUT);
        assert_eq!(wq.pop(), Some(Handle(2)));
        assert_eq!(info.take(), Events::ERR);
    }

    #[test]
    fn an_unchanged_level_is_queued_only_when_asked() {
        let (mut wq, mut info) = (WaitQueue::new(), EventInfo::default());
        wq.set_mask(Handle(1), &mut info, Some(Events::IN));
        wq.set_ready(Handle(1), &mut info, Events::IN);
        assert!(info.waiting());
        assert_eq!(wq.pop().map(|_| info.take()), Some(Events::IN));
        wq.set_ready(Handle(1), &mut info, Events::IN);
        assert!(wq.is_empty());
        wq.notify(Handle(1), &mut info, Events::IN);
        assert_eq!(wq.pop(), Some(Handle(1)));
    }
}
