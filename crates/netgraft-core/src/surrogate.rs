//! Surrogates: the AF_UNIX sockets that stand in the program's descriptor table for internet sockets, and what can
//! be done with them.
//!
//! Every operation answers at once. Those on a [`Files::File`] act on the program's own open file: what they change,
//! the program sees.

use std::io::{IoSlice, IoSliceMut};

use netgraft_plugin::{Domain, Events, Shutdown};

use crate::join::{Pair, Side};
use crate::program::Files;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// The kernel's number of an open socket, never used twice (`SO_COOKIE`, socket(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// An abstract name of an AF_UNIX socket (unix(7)) in the sentry's network namespace. It cannot be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub u64);

/// A watch for the last close of an open file (inotify(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch(pub i32);

/// The bytes that close the gate of a socket which is being connected: they are read before those of the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Gate {
    /// How many they are.
    pub fill: usize,
}

/// Which events of the sentry's end of a surrogate the poller reports, by edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That the program's side has hung up.
    HangUp,
    /// That the program has written, ended its direction or hung up.
    Input,
    /// And that it has read. Everything that the program reads makes the end writable once more: that wakes the sentry
    /// for nothing unless it has something to write.
    InputAndRoom,
}

/// What a surrogate looks like that no entry of the table stands for: one of an earlier sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its address family.
    pub domain: Domain,
    /// What it is.
    pub shape: Shape,
}

/// The kinds of surrogate of an earlier sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A stream socket without name and peer.
    Fresh,
    /// One that listens.
    Listener,
    /// One whose gate is closed.
    Gated,
    /// One that is joined to another one of the sandbox, as it sees the connection. This sentry may have made it.
    Joined(Pair, Side),
    /// Any other stream socket.
    Stream,
    /// A datagram socket.
    Datagram,
}

/// Whether the surrogate itself now shows an error to whoever reads or polls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What the sentry can do with surrogates.
pub trait Surrogate: Files {
    /// A new stream surrogate that carries its address family, for a later sentry.
    ///
    /// # Errors
    /// ENFILE if the sentry has no room.
    fn new_stream(&mut self, domain: Domain, nonblocking: bool) -> Result<Self::File, Errno>;

    /// A new datagram surrogate, which has no peer, and the end from which it receives.
    ///
    /// # Errors
    /// ENFILE if the sentry has no room.
    fn new_datagram(&mut self, domain: Domain, nonblocking: bool) -> Result<(Self::File, Self::End), Errno>;

    /// The open file's cookie; `None` if it is no socket.
    fn cookie(&mut self, file: &Self::File) -> Option<Cookie>;

    /// The name of the end that a surrogate is connected to.
    fn peer_name(&mut self, file: &Self::File) -> Option<Name>;

    /// What a surrogate looks like; `None` for a file that is none.
    fn inspect(&mut self, file: &Self::File) -> Option<Found>;

    /// Whether data calls on the open file do not wait (O_NONBLOCK).
    ///
    /// # Errors
    /// fcntl(2)
    fn is_nonblocking(&mut self, file: &Self::File) -> Result<bool, Errno>;

    /// Connects a stream surrogate to a new end of the sentry. That the end is this file's is proven, not assumed.
    ///
    /// # Errors
    /// ENFILE if the sentry has no room: the surrogate is as it was. EISCONN if it is connected.
    fn join(&mut self, file: &Self::File) -> Result<Self::End, Errno>;

    /// Makes a joined surrogate poll as a socket that is being connected: not writable.
    ///
    /// # Errors
    /// setsockopt(2), send(2)
    fn gate(&mut self, file: &Self::File, end: &Self::End) -> Result<Gate, Errno>;

    /// Opens the gate; the program's pollers see it. Without the file its send buffer stays at the minimum
    /// ([`Surrogate::restore_send_buffer`]).
    fn ungate(&mut self, file: Option<&Self::File>, end: &Self::End, gate: Gate);

    /// Gives a surrogate the send buffer that it had before its gate was closed; whether that worked.
    fn restore_send_buffer(&mut self, file: &Self::File, end: &Self::End) -> bool;

    /// Wakes the program's pollers of a surrogate that was joined (AF_UNIX does not wake the side that connects).
    fn wake(&mut self, file: &Self::File, end: &Self::End);

    /// Leaves a mark behind what the program has sent (urgent data of AF_UNIX), with which an end that is closed looks
    /// like a reset even if the program sends no more.
    fn mark(&mut self, file: &Self::File);

    /// Whether a mark is all that is left to read.
    fn is_at_mark(&mut self, end: &Self::End) -> bool;

    /// Takes the mark away.
    fn clear_mark(&mut self, end: &Self::End);

    /// Sends in the program's place; the last byte is urgent data (`MSG_OOB`) if all of them are taken.
    ///
    /// # Errors
    /// send(2)
    fn send_urgent_as_program(&mut self, file: &Self::File, data: &[u8]) -> Result<usize, Errno>;

    /// Whether the next byte that the program reads is urgent data (`SIOCATMARK`).
    fn is_at_urgent(&mut self, file: &Self::File) -> bool;

    /// The program's urgent byte, if it is next: anything but [`Surrogate::take_urgent`] drops it.
    fn next_urgent(&mut self, end: &Self::End) -> Option<u8>;

    /// Takes that byte.
    fn take_urgent(&mut self, end: &Self::End);

    /// Gives the program a byte as urgent data, without waiting.
    ///
    /// # Errors
    /// As [`Surrogate::send`].
    fn send_urgent(&mut self, end: &Self::End, byte: u8) -> Result<(), Errno>;

    /// Shuts the program's side down (shutdown(2)).
    ///
    /// # Errors
    /// ENOTCONN
    fn shut(&mut self, file: &Self::File, how: Shutdown) -> Result<(), Errno>;

    /// The program reads the end of the stream from now on.
    fn shut_end(&mut self, end: &Self::End);

    /// Closes an end so that the program sees a connection that was reset.
    fn reset(&mut self, end: Self::End, file: Option<&Self::File>) -> Shown;

    /// Takes the error that the open file shows (`SO_ERROR`), and says whether there was one.
    fn take_error(&mut self, file: &Self::File) -> bool;

    /// Whether the program's side is closed, or both directions are shut down.
    fn is_hung_up(&mut self, end: &Self::End) -> bool;

    /// Whether there is something to read from the program.
    fn has_input(&mut self, end: &Self::End) -> bool;

    /// Bytes that the program has sent and nobody has read yet, and memory of the kernel that holds what it has not read
    /// yet: for who looks at the socket.
    fn held(&mut self, end: &Self::End) -> (u64, u64) {
        let _ = end;
        (0, 0)
    }

    /// Reads what the program has sent, without waiting.
    ///
    /// # Errors
    /// EAGAIN; ECONNRESET if the program closed with bytes unread.
    fn receive(&mut self, end: &Self::End, buf: &mut [u8]) -> Result<usize, Errno>;

    /// [`Surrogate::receive`] into several pieces of memory, of which there is at least one; by default into the first.
    ///
    /// # Errors
    /// As [`Surrogate::receive`].
    fn receive_pieces(&mut self, end: &Self::End, pieces: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        pieces.first_mut().map_or(Err(uapi::EINVAL), |piece| self.receive(end, piece))
    }

    /// Gives bytes to the program, without waiting; a stream may take a part.
    ///
    /// # Errors
    /// EAGAIN; EPIPE if the program reads no more.
    fn send(&mut self, end: &Self::End, data: &[u8]) -> Result<usize, Errno>;

    /// [`Surrogate::send`] of several pieces of memory, of which there is at least one; by default of the first.
    ///
    /// # Errors
    /// As [`Surrogate::send`].
    fn send_pieces(&mut self, end: &Self::End, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        pieces.first().map_or(Err(uapi::EINVAL), |piece| self.send(end, piece))
    }

    /// Reads in the program's place. `flags` are those of recv(2).
    ///
    /// # Errors
    /// recv(2)
    fn receive_as_program(&mut self, file: &Self::File, buf: &mut [u8], flags: i32) -> Result<usize, Errno>;

    /// Sends in the program's place.
    ///
    /// # Errors
    /// send(2)
    fn send_as_program(&mut self, file: &Self::File, data: &[u8]) -> Result<usize, Errno>;

    /// Makes a surrogate listen, under a new name unless it has one; answers the name.
    ///
    /// # Errors
    /// bind(2), listen(2)
    fn listen(
        &mut self,
        file: &Self::File,
        named: Option<Name>,
        domain: Domain,
        backlog: u32,
    ) -> Result<Name, Errno>;

    /// Connects a new end, which has a name of its own, to a listening surrogate.
    ///
    /// # Errors
    /// EAGAIN if its queue is full; ENFILE if the sentry has no room; any other: it does not listen any more.
    fn offer(&mut self, listener: Name) -> Result<(Self::End, Name), Errno>;

    /// Connects a fresh surrogate to a listening one of the same sandbox, and gives it a name that tells the addresses of
    /// the connection. The program's pollers see that it is connected.
    ///
    /// # Errors
    /// EAGAIN if the listener's queue is full, ECONNREFUSED if it listens no more: the surrogate is as it was.
    /// ECONNABORTED: it is used up.
    fn join_listener(
        &mut self,
        file: &Self::File,
        listener: Name,
        pair: Pair,
        nonblocking: bool,
    ) -> Result<(), Errno>;

    /// The addresses of an accepted connection that is joined, as its side sees them; `None` for any other socket.
    fn accepted_pair(&mut self, file: &Self::File) -> Option<Pair>;

    /// Whether a mark of the other side's ([`Surrogate::mark`]) lies in the queue of the program's side.
    fn has_mark(&mut self, file: &Self::File) -> bool;

    /// Takes such a mark away.
    fn take_mark(&mut self, file: &Self::File);

    /// Whether the other side of a joined connection sends no more.
    fn has_ended(&mut self, file: &Self::File) -> bool;

    /// Accepts from a listening surrogate, for a bounded time only.
    ///
    /// # Errors
    /// EAGAIN if nothing waits.
    fn accept(&mut self, file: &Self::File, nonblocking: bool) -> Result<Self::File, Errno>;

    /// Changes the O_NONBLOCK of an open file.
    ///
    /// # Errors
    /// fcntl(2)
    fn set_nonblocking(&mut self, file: &Self::File, on: bool) -> Result<(), Errno>;

    /// Connects a datagram surrogate to its end, so that the program can send without an address.
    ///
    /// # Errors
    /// connect(2)
    fn aim(&mut self, file: &Self::File, end: &Self::End) -> Result<(), Errno>;

    /// Takes [`Surrogate::aim`] back.
    ///
    /// # Errors
    /// connect(2)
    fn unaim(&mut self, file: &Self::File) -> Result<(), Errno>;

    /// Whether the program has read every datagram that the end has sent.
    fn is_drained(&mut self, end: &Self::End) -> bool;

    /// Makes a datagram surrogate show an error to who polls or reads it.
    fn show_datagram_error(&mut self, end: &Self::End, file: &Self::File) -> Shown;

    /// A new end for a datagram surrogate of an earlier sentry, whose queue is emptied.
    ///
    /// # Errors
    /// ENFILE if the sentry has no room.
    fn replace_end(&mut self, file: &Self::File, aimed: bool) -> Result<Self::End, Errno>;

    /// Sets an option of the surrogate itself (setsockopt(2)).
    ///
    /// # Errors
    /// setsockopt(2)
    fn set_option(&mut self, file: &Self::File, level: i32, name: i32, value: &[u8]) -> Result<(), Errno>;

    /// Reads an option of the surrogate itself, and says how long it is.
    ///
    /// # Errors
    /// getsockopt(2)
    fn get_option(
        &mut self,
        file: &Self::File,
        level: i32,
        name: i32,
        value: &mut [u8],
    ) -> Result<usize, Errno>;
}

/// What tells the sentry of events on surrogates. Registrations end with what they are for.
pub trait Watcher: Files {
    /// Reports events of an end as those of a socket ([`crate::Core::end_ready`]).
    fn watch_end(&mut self, end: &Self::End, id: SocketId, interest: Interest);

    /// Changes what is reported. What holds already is reported at once.
    fn rewatch_end(&mut self, end: &Self::End, id: SocketId, interest: Interest);

    /// Stops reporting.
    fn unwatch_end(&mut self, end: &Self::End);

    /// Watches for the last close of an open file ([`Watcher::take_closed`]).
    ///
    /// # Errors
    /// ENOSPC if the system allows no more watches.
    fn watch_close(&mut self, file: &Self::File) -> Result<Watch, Errno>;

    /// Ends such a watch, also one whose file is closed.
    fn unwatch_close(&mut self, watch: Watch);

    /// Takes the watches whose files were closed since the last call.
    fn take_closed(&mut self, closed: &mut Vec<Watch>);

    /// Puts a fresh surrogate into the nursery, which does not hold it: the kernel takes it out at its last close.
    fn shelter(&mut self, file: &Self::File, id: SocketId);

    /// Reports once that one of these events is there on the program's open file ([`crate::Core::file_ready`]), for as
    /// long as it is open.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM: it is not reported.
    fn await_file(&mut self, file: &Self::File, id: SocketId, events: Events) -> Result<(), Errno>;

    /// The sockets in the nursery; `None` if they cannot be listed now.
    fn sheltered(&mut self) -> Option<Vec<SocketId>>;
}

/// The bits of [`Events`] that a surrogate's end reports: IN, OUT, RDHUP (the program's direction is over) and HUP
/// (the program's side is closed, or both directions are).
pub const END_EVENTS: Events =
    Events::IN.union(Events::OUT).union(Events::RDHUP).union(Events::HUP).union(Events::ERR);
