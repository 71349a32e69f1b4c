//! What wakes the sentry: one epoll instance, and watches for files that are closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netgraft_core::{HostToken, Interest, ProgramId, SocketId};
use netgraft_linux::epoll::{Epoll, EventBuffer, bits};
use netgraft_linux::inotify::CloseWatcher;
use netgraft_plugin::Events;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The sentry's end of a surrogate.
    End(SocketId),
    /// The listener of a program.
    Listener(ProgramId),
    /// A host socket on which a call waits.
    Host(HostToken),
    /// The socket to the launcher.
    Control,
    /// Files that were closed for the last time.
    Closes,
    /// A descriptor of the stack.
    Stack,
    /// Files of the program on which a data call waits.
    Files,
    /// Another thread of the sentry wakes the loop.
    Wake,
    /// An operator who is connected.
    Operator(u32),
    /// The packet socket of a private link, by its number.
    Link(u32),
    /// What observes datagram sockets.
    Observer,
}

/// Tokens of ends are ids below 2⁶³; the others have this bit, a kind in the byte below it and a number in the low half.
const OTHER: u64 = 1 << 63;
const KIND: u32 = 48;

impl Token {
    fn to_bits(self) -> u64 {
        let other = |kind: u64, number: u32| OTHER | kind << KIND | u64::from(number);
        match self {
            Token::End(id) => id.to_bits(),
            Token::Listener(ProgramId(program)) => other(1, program),
            Token::Host(HostToken(number)) => other(2, number),
            Token::Control => other(3, 0),
            Token::Closes => other(4, 0),
            Token::Stack => other(5, 0),
            Token::Files => other(6, 0),
            Token::Wake => other(7, 0),
            Token::Operator(number) => other(8, number),
            Token::Link(number) => other(9, number),
            Token::Observer => other(10, 0),
        }
    }

    /// `None` for what [`Token::to_bits`] does not give.
    fn from_bits(bits: u64) -> Option<Token> {
        if bits & OTHER == 0 {
            return Some(Token::End(SocketId::from_bits(bits)));
        }
        let number = bits as u32;
        match (bits & !OTHER) >> KIND {
            1 => Some(Token::Listener(ProgramId(number))),
            2 => Some(Token::Host(HostToken(number))),
            3 => Some(Token::Control),
            4 => Some(Token::Closes),
            5 => Some(Token::Stack),
            6 => Some(Token::Files),
            7 => Some(Token::Wake),
            8 => Some(Token::Operator(number)),
            9 => Some(Token::Link(number)),
            10 => Some(Token::Observer),
            _ => None,
        }
    }
}

/// The sentry's epoll instance and its kin.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    /// Watches for the last close of open files.
    pub(crate) closes: CloseWatcher,
    /// Holds fresh stream surrogates without keeping them open: the kernel takes an entry out with the last close.
    pub(crate) nursery: Epoll,
    /// Files of the program that are reported once, and are not held either.
    files: Epoll,
}

impl Poller {
    /// A poller that watches nothing but closes.
    ///
    /// # Errors
    /// EMFILE
    pub(crate) fn new() -> io::Result<Poller> {
        let poller = Poller {
            epoll: Epoll::new()?,
            closes: CloseWatcher::new()?,
            nursery: Epoll::new()?,
            files: Epoll::new()?,
        };
        poller.epoll.add(poller.files.as_fd(), bits::IN, Token::Files.to_bits())?;
        poller.epoll.add(poller.closes.as_fd(), bits::IN, Token::Closes.to_bits())?;
        Ok(poller)
    }

    /// Watches a descriptor that is not a surrogate's end, by level.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, events: Events, token: Token) -> io::Result<()> {
        self.epoll.add(fd, events.bits(), token.to_bits())
    }

    /// Changes what a descriptor is watched for that is not a surrogate's end.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(crate) fn change(&self, fd: BorrowedFd<'_>, events: Events, token: Token) -> io::Result<()> {
        self.epoll.modify(fd, events.bits(), token.to_bits())
    }

    /// Stops watching a descriptor.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.remove(fd);
    }

    /// Watches a surrogate's end, by edge.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(crate) fn add_end(&self, fd: BorrowedFd<'_>, id: SocketId, interest: Interest) -> io::Result<()> {
        self.epoll.add(fd, edge(interest), Token::End(id).to_bits())
    }

    /// Changes what a surrogate's end is watched for.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(crate) fn change_end(&self, fd: BorrowedFd<'_>, id: SocketId, interest: Interest) -> io::Result<()> {
        self.epoll.modify(fd, edge(interest), Token::End(id).to_bits())
    }

    /// Reports a file of the program once, when a data call can go on, unless it is closed before.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(crate) fn await_file(&self, fd: BorrowedFd<'_>, id: SocketId, events: Events) -> io::Result<()> {
        self.files.set(fd, events.bits() | bits::ONESHOT, id.to_bits())
    }

    /// The sockets whose files are reported now.
    ///
    /// # Errors
    /// epoll_wait(2)
    pub(crate) fn take_files(&self, into: &mut EventBuffer) -> io::Result<Vec<SocketId>> {
        self.files.wait(into, Some(Duration::ZERO))?;
        Ok(into.events().iter().map(|&(_, bits)| SocketId::from_bits(bits)).collect())
    }

    /// Waits for at most `timeout`, for ever if there is none.
    ///
    /// # Errors
    /// epoll_wait(2)
    pub(crate) fn wait(&self, into: &mut EventBuffer, timeout: Option<Duration>) -> io::Result<()> {
        self.epoll.wait(into, timeout)
    }
}

/// The events of a wait.
pub(crate) fn events(buffer: &EventBuffer) -> impl Iterator<Item = (Events, Token)> + '_ {
    buffer
        .events()
        .iter()
        .filter_map(|&(events, bits)| Some((Events::from_bits_truncate(events), Token::from_bits(bits)?)))
}

fn edge(interest: Interest) -> u32 {
    bits::EDGE
        | match interest {
            Interest::HangUp => bits::RDHUP,
            Interest::Input => bits::IN | bits::RDHUP,
            Interest::InputAndRoom => bits::IN | bits::RDHUP | bits::OUT,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip() {
        let end = SocketId::from_bits(0x7fff_ffff_ffff_ffff);
        let tokens = [
            Token::End(SocketId::from_bits(0)),
            Token::End(end),
            Token::Listener(ProgramId(0)),
            Token::Listener(ProgramId(u32::MAX)),
            Token::Host(HostToken(7)),
            Token::Control,
            Token::Closes,
            Token::Stack,
            Token::Files,
            Token::Wake,
            Token::Operator(u32::MAX),
            Token::Link(3),
            Token::Observer,
        ];
        for token in tokens {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(u64::MAX), None);
    }
}
