//! [`Watcher`] with epoll(7) and inotify(7).

use std::os::fd::{AsFd, OwnedFd};

use netgraft_core::{Interest, SocketId, Watch, Watcher};
use netgraft_linux::epoll::bits;
use netgraft_linux::inotify;
use netgraft_plugin::Events;

use super::{Bindings, errno};

impl Watcher for Bindings {
    fn watch_end(&mut self, end: &OwnedFd, id: SocketId, interest: Interest) {
        if let Err(error) = self.poller.add_end(end.as_fd(), id, interest) {
            tracing::warn!(%error, "a socket cannot be watched");
        }
    }

    fn rewatch_end(&mut self, end: &OwnedFd, id: SocketId, interest: Interest) {
        if let Err(error) = self.poller.change_end(end.as_fd(), id, interest) {
            tracing::warn!(%error, "a socket cannot be watched");
        }
    }

    fn unwatch_end(&mut self, end: &OwnedFd) {
        self.poller.remove(end.as_fd());
    }

    fn watch_close(&mut self, file: &OwnedFd) -> Result<Watch, i32> {
        let watch = self.poller.closes.watch(file.as_fd()).map_err(|e| errno(&e))?;
        Ok(Watch(watch.number()))
    }

    fn unwatch_close(&mut self, watch: Watch) {
        self.poller.closes.unwatch(inotify::Watch::from_number(watch.0));
    }

    fn take_closed(&mut self, closed: &mut Vec<Watch>) {
        let harvested = self.poller.closes.harvest(|watch| closed.push(Watch(watch.number())));
        if let Err(error) = harvested {
            // Only code in this process can have closed the descriptor.
            self.launcher.note_broken(error);
        }
    }

    fn shelter(&mut self, file: &OwnedFd, id: SocketId) {
        let _ = self.poller.nursery.set(file.as_fd(), bits::HUP, id.to_bits());
    }

    fn await_file(&mut self, file: &OwnedFd, id: SocketId, events: Events) -> Result<(), i32> {
        self.poller.await_file(file.as_fd(), id, events).map_err(|e| errno(&e))
    }

    fn sheltered(&mut self) -> Option<Vec<SocketId>> {
        match self.poller.nursery.tokens() {
            Ok(tokens) => Some(tokens.into_iter().map(SocketId::from_bits).collect()),
            Err(error) => {
                tracing::warn!(%error, "closed sockets cannot be found");
                None
            }
        }
    }
}
