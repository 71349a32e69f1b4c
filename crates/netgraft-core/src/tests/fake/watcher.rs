//! [`Watcher`] of the fake kernel: edges as epoll(7) reports them, watches for closes, the nursery.

use netgraft_plugin::Events;

use super::kernel::{FakeKernel, File};
use crate::surrogate::{Interest, Watch, Watcher};
use crate::table::SocketId;
use crate::uapi::Errno;

const ENOSPC: Errno = 28;

impl Watcher for FakeKernel {
    fn watch_end(&mut self, end: &File, id: SocketId, interest: Interest) {
        let mut world = self.world.borrow_mut();
        assert!(!world.socks.is_watched(end.cookie), "an end is registered twice: the kernel refuses that");
        world.socks.watch(end.cookie, id, interest);
    }

    fn rewatch_end(&mut self, end: &File, id: SocketId, interest: Interest) {
        let mut world = self.world.borrow_mut();
        assert!(world.socks.is_watched(end.cookie), "an end that is not registered cannot be changed");
        world.socks.watch(end.cookie, id, interest);
    }

    fn unwatch_end(&mut self, end: &File) {
        self.world.borrow_mut().socks.unwatch(end.cookie);
    }

    fn watch_close(&mut self, file: &File) -> Result<Watch, Errno> {
        let mut world = self.world.borrow_mut();
        // As for inotify(7), a file has one watch.
        if let Some((&watch, _)) = world.watches.iter().find(|(_, cookie)| **cookie == file.cookie) {
            return Ok(Watch(watch));
        }
        if world.watches.len() >= world.limits.watches {
            return Err(ENOSPC);
        }
        world.last_watch += 1;
        let watch = world.last_watch;
        world.watches.insert(watch, file.cookie);
        Ok(Watch(watch))
    }

    fn unwatch_close(&mut self, watch: Watch) {
        let mut world = self.world.borrow_mut();
        world.watches.remove(&watch.0);
        world.closed.retain(|closed| *closed != watch.0);
    }

    fn take_closed(&mut self, closed: &mut Vec<Watch>) {
        closed.extend(self.world.borrow_mut().closed.drain(..).map(Watch));
    }

    fn shelter(&mut self, file: &File, id: SocketId) {
        self.world.borrow_mut().nursery.insert(file.cookie, id);
    }

    fn await_file(&mut self, file: &File, id: SocketId, events: Events) -> Result<(), Errno> {
        self.world.borrow_mut().socks.await_file(file.cookie, id, events);
        Ok(())
    }

    fn sheltered(&mut self) -> Option<Vec<SocketId>> {
        let world = self.world.borrow();
        world.nursery_is_listed.then(|| world.nursery.values().copied().collect())
    }
}
