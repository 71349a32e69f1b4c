//! `shutdown`.

use netgraft_plugin::{Error, Shutdown};

use crate::answers::{Answer, Outcome};
use crate::core::{Core, Kernel, Subject};
use crate::datagram::Reading;
use crate::pump::Work;
use crate::socket::{Attempt, State};
use crate::table::SocketId;
use crate::uapi;

impl<K: Kernel> Core<K> {
    /// shutdown(2)
    pub(crate) fn shutdown(&mut self, subject: &Subject<K>, how: i32) -> Outcome {
        let how = match how {
            uapi::SHUT_RD => Shutdown::Read,
            uapi::SHUT_WR => Shutdown::Write,
            uapi::SHUT_RDWR => Shutdown::Both,
            _ => return Err(uapi::EINVAL),
        };
        let id = subject.id;
        self.send_what_was_written(id);
        let socket = self.table.get_mut(id).ok_or(uapi::EBADF)?;
        match &mut socket.state {
            // Both directions are over: TIME-WAIT, or nothing, is no connection (tcp_shutdown of Linux).
            State::Connected(stream) if !stream.is_open_out() && stream.has_given_end() => {
                return Err(uapi::ENOTCONN);
            }
            State::Joined(joined) if joined.has_ended && self.kernel.has_ended(&subject.file) => {
                return Err(uapi::ENOTCONN);
            }
            State::Connected(stream) => {
                stream.note_shut();
                if how != Shutdown::Read {
                    // From now on nobody can leave a byte unread to reset the connection.
                    self.kernel.mark(&subject.file);
                }
                // What was written before is read first: the end of the stream comes after it.
                self.kernel.shut(&subject.file, how)?;
                // Before the pump, which may find both directions over: the end hangs up then, as at a close.
                self.watch_close(id, &subject.file);
                if how != Shutdown::Read {
                    self.pump(id, Work::OutToEnd);
                }
            }
            // The kernel tells the other side.
            State::Joined(joined) => {
                joined.has_ended |= how != Shutdown::Read;
                self.kernel.shut(&subject.file, how)?;
            }
            State::Listening(_) => {
                // It sends nothing: there is nothing to end in that direction.
                if how != Shutdown::Write {
                    self.end_listener(id, &subject.file);
                }
            }
            State::Connecting(_) => self.fail_connect_by_shutdown(id),
            State::Datagram(datagram) => {
                let handle = socket.handle.ok_or(uapi::ENOTCONN)?;
                self.stack.shutdown(handle, how, self.time.now).map_err(Error::errno)?;
                if how != Shutdown::Write {
                    datagram.reading = Reading::Shut;
                }
                self.kernel.shut(&subject.file, how)?;
            }
            State::Fresh | State::Ended(_) => return Err(uapi::ENOTCONN),
        }
        if how != Shutdown::Write {
            // A receive that waits gets nothing any more.
            self.serve_parked_receive(id);
        }
        if how != Shutdown::Read {
            self.retry_sends(id);
        }
        Ok(Answer::Value(0))
    }

    /// A connection attempt that is shut down is over (tcp(7): the socket is reset).
    fn fail_connect_by_shutdown(&mut self, id: SocketId) {
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(uapi::ECONNRESET));
        }
        match self.table.get(id).map(|s| &s.state) {
            // The surrogate is as it was: the program may try again.
            Some(State::Connecting(Attempt::Blocking)) => self.begin_anew(id),
            _ => self.fail_stream(id, Error::ConnectionReset),
        }
    }
}
