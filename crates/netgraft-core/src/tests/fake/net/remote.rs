//! What a test says for a remote host.

use netgraft_plugin::Error;

use super::{Net, Remote};

impl Net {
    /// The port at which a remote host was called.
    pub(crate) fn remote_port(&self, remote: Remote) -> u16 {
        self.pipes[remote.pipe].addresses[remote.side].port()
    }

    /// The remote side sends.
    pub(crate) fn remote_sends(&mut self, remote: Remote, data: &[u8]) -> Result<usize, Error> {
        self.is_woken = true;
        self.send_on(remote.pipe, remote.side, data)
    }

    /// The remote side reads all that is there.
    pub(crate) fn remote_reads(&mut self, remote: Remote) -> Vec<u8> {
        self.is_woken = true;
        let mut buf = vec![0; self.pipes[remote.pipe].ways[1 - remote.side].bytes.len()];
        let n = if buf.is_empty() {
            0
        } else {
            self.receive_on(remote.pipe, remote.side, &mut buf, false).unwrap()
        };
        buf.truncate(n);
        buf
    }

    /// Whether the remote side sees an end of the stream behind what it has read.
    pub(crate) fn remote_sees_end(&self, remote: Remote) -> bool {
        let way = &self.pipes[remote.pipe].ways[1 - remote.side];
        way.bytes.is_empty() && way.has_ended && !self.remote_sees_reset(remote)
    }

    pub(crate) fn remote_sees_reset(&self, remote: Remote) -> bool {
        self.pipes[remote.pipe].errors[remote.side] == Some(Error::ConnectionReset)
    }

    /// Whether the connection was reset by either side.
    pub(crate) fn was_reset(&self, remote: Remote) -> bool {
        self.pipes[remote.pipe].was_reset
    }

    /// The remote side sends no more.
    pub(crate) fn remote_ends(&mut self, remote: Remote) {
        self.is_woken = true;
        self.end_on(remote.pipe, remote.side);
    }

    /// The remote side resets the connection, or another error ends it.
    pub(crate) fn remote_fails(&mut self, remote: Remote, error: Error) {
        self.is_woken = true;
        self.reset_on(remote.pipe, remote.side, error);
    }
}
