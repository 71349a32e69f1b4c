//! What wrappers leave to the link that they wrap.

/// The calls of [`netgraft_plugin::link::Link`] that neither look at frames nor at the time, for a wrapper whose field `link`
/// is the link that it wraps.
macro_rules! as_the_link_within {
    () => {
        fn medium(&self) -> netgraft_plugin::link::Medium {
            self.link.medium()
        }

        fn mtu(&self) -> usize {
            self.link.mtu()
        }

        fn offload(&self) -> netgraft_plugin::link::Offload {
            self.link.offload()
        }

        fn refuse_offload(&mut self) {
            self.link.refuse_offload();
        }

        fn resume_offload(&mut self) {
            self.link.resume_offload();
        }

        fn room(&self) -> Option<usize> {
            self.link.room()
        }

        fn flush(&mut self, now: netgraft_plugin::Instant) -> netgraft_plugin::Result<()> {
            self.link.flush(now)
        }

        fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            self.link.fd()
        }
    };
}
