//! [`Journal`]: what a later sentry is to know goes to the launcher.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_core::{Cookie, Journal, Kept, Name, Role, Seen};
use netgraft_launch::control::{self, FromSentry, KeptOption, KeptRole};
use netgraft_plugin::OptionName;

use super::Bindings;

/// The way to the launcher.
#[derive(Debug)]
pub(crate) struct ToLauncher {
    control: OwnedFd,
    /// Whether the launcher keeps a journal.
    journal: bool,
    /// Why the sentry cannot go on.
    broken: Option<io::Error>,
}

impl ToLauncher {
    pub(crate) fn new(control: OwnedFd, journal: bool) -> ToLauncher {
        ToLauncher { control, journal, broken: None }
    }

    /// The control socket.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The launcher is gone; the hang-up of the control socket ends the sentry then.
    pub(crate) fn send(&self, message: &FromSentry) -> io::Result<()> {
        control::send(self.control.as_fd(), message)
    }

    /// Notes that the sentry cannot go on.
    pub(crate) fn note_broken(&mut self, error: io::Error) {
        self.broken = Some(error);
    }

    /// Whether the sentry cannot go on.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Why the sentry cannot go on, if that is so.
    pub(crate) fn take_broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }
}

impl Journal for Bindings {
    fn is_kept(&self) -> bool {
        self.launcher.journal
    }

    fn keep(&mut self, kept: Kept) {
        let _ = self.launcher.send(&FromSentry::Keep(to_control(kept)));
    }

    fn forget(&mut self, Cookie(cookie): Cookie) {
        let _ = self.launcher.send(&FromSentry::Forget(cookie));
    }

    fn warn(&mut self, text: String) {
        let _ = self.launcher.send(&FromSentry::Warning(text));
    }
}

fn to_control(kept: Kept) -> control::Kept {
    let (name, role) = match kept.role {
        Role::Listener(Name(name), backlog) => (name, KeptRole::Listener(backlog)),
        Role::Datagrams => (0, KeptRole::Datagrams),
    };
    let option = |name: OptionName| match name {
        OptionName::ReuseAddress => Some(KeptOption::ReuseAddress),
        OptionName::ReusePort => Some(KeptOption::ReusePort),
        OptionName::V6Only => Some(KeptOption::V6Only),
        _ => None,
    };
    control::Kept {
        cookie: kept.cookie.0,
        name,
        role,
        address: kept.address,
        peer: kept.peer,
        on: kept.on.into_iter().filter_map(option).collect(),
        seen: kept.seen.map(|Seen { tid, fd }| (tid, fd)),
    }
}

/// What the launcher gives back.
pub(crate) fn from_control(kept: &control::Kept) -> Kept {
    let option = |option: &KeptOption| match option {
        KeptOption::ReuseAddress => OptionName::ReuseAddress,
        KeptOption::ReusePort => OptionName::ReusePort,
        KeptOption::V6Only => OptionName::V6Only,
    };
    Kept {
        cookie: Cookie(kept.cookie),
        role: match kept.role {
            KeptRole::Listener(backlog) => Role::Listener(Name(kept.name), backlog),
            KeptRole::Datagrams => Role::Datagrams,
        },
        address: kept.address,
        peer: kept.peer,
        on: kept.on.iter().map(option).collect(),
        seen: kept.seen.map(|(tid, fd)| Seen { tid, fd }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_launcher_keeps_comes_back_the_same() {
        let listener = Kept {
            cookie: Cookie(7),
            role: Role::Listener(Name(9), 128),
            address: "[::1]:80".parse().unwrap(),
            peer: None,
            on: netgraft_core::KEPT_OPTIONS.to_vec(),
            seen: Some(Seen { tid: 4, fd: 5 }),
        };
        let datagrams = Kept {
            role: Role::Datagrams,
            peer: Some("192.0.2.1:53".parse().unwrap()),
            on: Vec::new(),
            seen: None,
            ..listener.clone()
        };
        for kept in [listener, datagrams] {
            assert_eq!(from_control(&to_control(kept.clone())), kept);
        }
    }
}
