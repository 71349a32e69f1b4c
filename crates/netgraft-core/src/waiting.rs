//! Data calls on streams that are trapped: those that ask for an address or carry control messages. A call that may wait
//! goes on until all is sent, or with MSG_WAITALL received (send(2), recv(2)); what it has done by then stays with it while it
//! is parked.

use netgraft_plugin::Error;

use crate::answers::{Answer, Outcome};
use crate::codec::call::Buffer;
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::program::{Caller, total};
use crate::pump::Work;
use crate::socket::{Pending, Socket};
use crate::uapi::{self, Errno};

/// How many times the scratch buffer is filled for one call before others have their turn.
const TURNS: usize = 16;
/// The most bytes of one call (`MAX_RW_COUNT`).
const MOST: usize = 0x7fff_f000;

/// How far a call has come.
pub(crate) enum Progress {
    /// It is done, with so many bytes.
    Done(usize),
    /// It waits, or is to have another turn, behind so many bytes.
    Waits(usize),
}

/// An I/O vector without its first bytes.
fn rest(parts: &[Buffer], mut skip: usize) -> Vec<Buffer> {
    let mut rest = Vec::new();
    for part in parts {
        let here = skip.min(usize::try_from(part.len).unwrap_or(usize::MAX));
        skip -= here;
        let here = here as u64;
        if part.len > here {
            rest.push(Buffer { address: part.address.wrapping_add(here), len: part.len - here });
        }
    }
    rest
}

impl<K: Kernel> Core<K> {
    /// Takes bytes of a stream into the caller's memory: what there is, or with MSG_WAITALL all that is asked for.
    pub(crate) fn receive_stream(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        parts: &[Buffer],
        flags: i32,
    ) -> Result<Progress, Errno> {
        if flags & uapi::MSG_ERRQUEUE != 0 {
            return Err(uapi::EAGAIN);
        }
        if flags & uapi::MSG_OOB != 0 && self.has_reset_mark(subject.id) {
            return Err(uapi::EINVAL);
        }
        let wanted = total(parts).min(MOST);
        // What is only looked at stays where it is: nothing tells when there is more of it.
        let all = flags & uapi::MSG_WAITALL != 0 && flags & (uapi::MSG_PEEK | uapi::MSG_OOB) == 0;
        let mut taken = request.progress();
        for _ in 0..TURNS {
            match self.receive_some(request, subject, (parts, taken, wanted), flags) {
                Ok(n) => {
                    taken += n;
                    if !all || n == 0 || taken >= wanted {
                        return Ok(Progress::Done(taken));
                    }
                }
                Err(uapi::EAGAIN) if taken > 0 && self.must_not_wait(&subject.file, flags)? => {
                    return Ok(Progress::Done(taken));
                }
                Err(uapi::EAGAIN) => return Ok(Progress::Waits(taken)),
                Err(errno) if taken == 0 => return Err(errno),
                Err(errno) => {
                    // The next call tells it.
                    if let (Some(error), Some(socket)) =
                        (Error::from_errno(errno), self.table.get_mut(subject.id))
                    {
                        socket.pending = Pending::Hidden(error);
                    }
                    return Ok(Progress::Done(taken));
                }
            }
        }
        Ok(match self.must_not_wait(&subject.file, flags)? {
            true => Progress::Done(taken),
            false => Progress::Waits(taken),
        })
    }

    /// Takes what there is, behind what was taken before.
    fn receive_some(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        (parts, taken, wanted): (&[Buffer], usize, usize),
        flags: i32,
    ) -> Result<usize, Errno> {
        let room = (wanted - taken.min(wanted)).min(self.buffers.scratch.len());
        let buf = &mut self.buffers.scratch[..room];
        let flags = flags & (uapi::MSG_PEEK | uapi::MSG_OOB);
        let got = match self.kernel.receive_as_program(&subject.file, buf, flags) {
            Ok(n) => n.min(room),
            // AF_UNIX has one word for every failure.
            Err(uapi::ECONNRESET) => {
                let error = self.table.get_mut(subject.id).and_then(|socket| socket.pending.take());
                return Err(error.map_or(uapi::ECONNRESET, Error::errno));
            }
            Err(errno) => return Err(errno),
        };
        let data = &self.buffers.scratch[..got];
        if taken == 0 {
            self.kernel.scatter(&request.caller, parts, data)?;
        } else {
            self.kernel.scatter(&request.caller, &rest(parts, taken), data)?;
        }
        Ok(got)
    }

    /// Sends bytes on a stream, which ignores an address (send(2)).
    pub(crate) fn send_stream(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        parts: &[Buffer],
        flags: i32,
    ) -> Outcome {
        let before = request.progress();
        self.check_stream_send(subject, flags, before)?;
        let wanted = total(parts).min(MOST);
        let mut taken = before;
        for _ in 0..TURNS {
            let more = if taken == 0 { None } else { Some(rest(parts, taken)) };
            match self.give(&request.caller, subject, more.as_deref().unwrap_or(parts), flags) {
                Ok(n) => {
                    taken += n;
                    if taken >= wanted {
                        return Ok(Answer::Value(taken as i64));
                    }
                }
                Err(uapi::EAGAIN) if !self.must_not_wait(&subject.file, flags)? => break,
                Err(_) if taken > 0 => return Ok(Answer::Value(taken as i64)),
                Err(errno) => return Err(errno),
            }
        }
        if self.must_not_wait(&subject.file, flags)? {
            return Ok(Answer::Value(taken as i64));
        }
        self.park_data_call(request, subject, Direction::Send, taken)
    }

    /// What keeps a stream from being sent to; `before` is what the same call has sent.
    fn check_stream_send(&mut self, subject: &Subject<K>, flags: i32, before: usize) -> Result<(), Errno> {
        if flags & uapi::MSG_FASTOPEN != 0 {
            return Err(uapi::EOPNOTSUPP);
        }
        if flags & uapi::MSG_OOB != 0 && self.has_reset_mark(subject.id) {
            return Err(uapi::EOPNOTSUPP);
        }
        if before == 0
            && let Some(error) = self.take_pending(subject)
        {
            return Err(error.errno());
        }
        Ok(())
    }

    /// Puts bytes into a stream's surrogate in the program's place, and says how many. The last of all is urgent with
    /// MSG_OOB.
    pub(crate) fn give_to_stream(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        parts: &[Buffer],
        flags: i32,
    ) -> Result<usize, Errno> {
        self.check_stream_send(subject, flags, 0)?;
        self.give(caller, subject, parts, flags)
    }

    fn give(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        parts: &[Buffer],
        flags: i32,
    ) -> Result<usize, Errno> {
        let all = total(parts);
        let chunk = self.budget.chunk(self.held).min(all).min(MOST);
        let payload = &mut self.buffers.payload;
        self.kernel.gather(caller, parts, chunk, payload)?;
        let len = payload.len();
        if flags & uapi::MSG_OOB == 0 || len < all {
            return self.kernel.send_as_program(&subject.file, payload).map(|n| n.min(len));
        }
        let sent = self.kernel.send_urgent_as_program(&subject.file, payload)?.min(len);
        if sent == len
            && let Some(stream) = self.table.get_mut(subject.id).and_then(Socket::stream_mut)
        {
            stream.note_urgent();
            self.pump(subject.id, Work::Out);
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_vector_begins_where_a_call_went_on() {
        let part = |address, len| Buffer { address, len };
        let parts = [part(100, 10), part(200, 0), part(300, 5)];
        let of = |skip| rest(&parts, skip).iter().map(|part| (part.address, part.len)).collect::<Vec<_>>();
        assert_eq!(of(0), [(100, 10), (300, 5)]);
        assert_eq!(of(4), [(104, 6), (300, 5)]);
        assert_eq!(of(10), [(300, 5)]);
        assert_eq!(of(12), [(302, 3)]);
        assert_eq!((of(15), of(usize::MAX)), (vec![], vec![]));
    }
}
