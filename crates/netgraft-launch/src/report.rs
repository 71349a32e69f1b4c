//! What the processes of a sandbox tell the launcher while they are being made: records of fixed size
//! through one socket pair, written with write(2), which the program's filter lets through. The kernel adds the
//! sender's process id: a process knows its own only as its own namespace has it.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use netgraft_linux::fdpass;

/// A process that the launcher is the parent of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    /// In the sentry's user namespace; makes the next three, then ends.
    SentryHelper,
    /// In the program's user namespace; makes the next two, then ends.
    ProgramHelper,
    /// The sentry.
    Sentry,
    /// The program.
    Program,
    /// First process of the program's process-id namespace.
    ProgramInit,
    /// First process of the sentry's process-id namespace, which holds everything.
    SentryInit,
}

impl Role {
    /// All, in the order in which they can be reaped: a namespace's first process ends only when the others
    /// have been.
    pub(super) const ALL: [Role; 6] = [
        Role::SentryHelper,
        Role::ProgramHelper,
        Role::Sentry,
        Role::Program,
        Role::ProgramInit,
        Role::SentryInit,
    ];
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A step of the sandbox's making.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            const ALL: &'static [Step] = &[$(Step::$name),*];

            /// What the step does, to stand behind "cannot".
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Pipes, sockets, forks.
    Start = "start the sandbox's processes";
    /// The user namespace of the sentry.
    UserNamespace = "make a user namespace";
    /// Its id maps.
    IdMaps = "map user and group ids into the sandbox";
    /// A process-id namespace.
    PidNamespace = "make a process-id namespace";
    /// The program's user namespace.
    ProgramUserNamespace = "make the program's user namespace";
    /// The program's other namespaces.
    ProgramNamespaces = "make the program's network, mount, IPC and host name namespaces";
    /// The loopback of the program's network namespace.
    Loopback = "bring up the loopback of the program's network namespace";
    /// The program's name servers.
    Dns = "cover /etc/resolv.conf for --dns (the file must exist)";
    /// The network interfaces in /sys.
    Sys = "show the sandbox's own interfaces in /sys/class/net";
    /// The system call profile.
    Profile = "install the program's system call profile";
    /// What the kernel shows of the host.
    KernelFiles = "make /proc/sys and /sys read-only";
    /// What the kernel's datagram sockets may do.
    DatagramSockets = "allow ports below 1024 and ping to every user of the sandbox (/proc/sys/net/ipv4)";
    /// The device for file systems of a program's own.
    Fuse = "hide /dev/fuse";
    /// A /proc of the program's own.
    Proc = "mount a /proc of the sandbox's own";
    /// The namespaces of a sandbox that runs.
    Join = "enter the sandbox's namespaces";
    /// Its control group.
    Limits = "put the program into its control group";
    /// The program's files.
    Files = "lay out the program's files";
    /// The descriptors that the program gets.
    Descriptors = "hand descriptors on to the program";
    /// A terminal of the program's own.
    Terminal = "give the program a terminal of its own (--pty)";
    /// The program's working directory.
    Directory = "enter the program's working directory";
    /// The program's user.
    User = "become the program's user";
    /// no_new_privs.
    NoNewPrivileges = "set no_new_privs";
    /// The program's filter.
    Filter = "install the system call filter with its listener";
    /// The numbers of the program's namespaces.
    Numbers = "find out the numbers of the program's namespaces (/proc/self/ns)";
    /// The launcher's copy of the listener.
    Listener = "take the listener from the program's process";
    /// The handover to the sentry.
    Handover = "hand the listener over to the sentry";
    /// Waiting, signals.
    Supervise = "watch over the sandbox";
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The first helper is in its user namespace and waits for the id maps.
    NeedsIdMaps,
    /// The sender exists and has this role.
    Made(Role),
    /// The program's filter is installed; its listener has this number in the program's process.
    Listener(i32),
    /// The program has a terminal of its own; the side that shows it has this number in the program's process.
    Terminal(i32),
    /// The sender stands in for a program: the sandbox is made without one.
    NoProgram,
    /// The number of the user namespace that the sender, a program's process, is in (namespaces(7)).
    UserNamespace(u32),
    /// The number of its network namespace.
    NetworkNamespace(u32),
    /// A step failed with this errno; the sandbox cannot be made.
    Failed(Step, i32),
    /// A step failed with this errno; the sandbox works without it.
    Skipped(Step, i32),
    /// execve(2) failed with this errno.
    ExecFailed(i32),
}

const SIZE: usize = 8;

impl Report {
    fn encode(self) -> [u8; SIZE] {
        let (tag, detail, value) = match self {
            Report::NeedsIdMaps => (0, 0, 0),
            Report::Made(role) => (1, role as u8, 0),
            Report::Listener(number) => (2, 0, number),
            Report::Failed(step, errno) => (3, step as u8, errno),
            Report::Skipped(step, errno) => (4, step as u8, errno),
            Report::ExecFailed(errno) => (5, 0, errno),
            Report::NoProgram => (6, 0, 0),
            Report::UserNamespace(number) => (7, 0, number.cast_signed()),
            Report::NetworkNamespace(number) => (8, 0, number.cast_signed()),
            Report::Terminal(number) => (9, 0, number),
        };
        let [a, b, c, d] = value.to_ne_bytes();
        [tag, detail, 0, 0, a, b, c, d]
    }

    fn decode(record: [u8; SIZE]) -> Option<Report> {
        let [tag, detail, _, _, a, b, c, d] = record;
        let value = i32::from_ne_bytes([a, b, c, d]);
        let role = || Role::ALL.into_iter().find(|r| *r as u8 == detail);
        let step = || Step::ALL.iter().copied().find(|s| *s as u8 == detail);
        Some(match tag {
            0 => Report::NeedsIdMaps,
            1 => Report::Made(role()?),
            2 => Report::Listener(value),
            3 => Report::Failed(step()?, value),
            4 => Report::Skipped(step()?, value),
            5 => Report::ExecFailed(value),
            6 => Report::NoProgram,
            7 => Report::UserNamespace(value.cast_unsigned()),
            8 => Report::NetworkNamespace(value.cast_unsigned()),
            9 => Report::Terminal(value),
            _ => return None,
        })
    }

    /// Writes the record. If the launcher is gone nobody can be told, and the writer's next step ends it.
    pub(super) fn send(self, mut socket: impl Write) {
        let _ = socket.write_all(&self.encode());
    }

    /// A step's failure.
    pub(super) fn failed(step: Step, error: &io::Error) -> Report {
        Report::Failed(step, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Reads one record and its sender's process id; `None` when every writer is gone.
    pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Report, i32)>> {
        let Some((record, sender)) = fdpass::receive_from_sender(socket)? else { return Ok(None) };
        match Report::decode(record) {
            Some(report) => Ok(Some((report, sender))),
            None => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn records_survive_the_socket() {
        let reports = [
            Report::NeedsIdMaps,
            Report::Made(Role::Program),
            Report::Listener(5),
            Report::Failed(Step::Supervise, 1),
            Report::Skipped(Step::Proc, 13),
            Report::ExecFailed(2),
            Report::NoProgram,
            Report::UserNamespace(u32::MAX),
            Report::NetworkNamespace(4_026_531_840),
            Report::Terminal(7),
        ];
        let (reader, writer) = fdpass::pair().unwrap();
        fdpass::tell_senders(reader.as_fd()).unwrap();
        let writer = File::from(writer);
        for report in reports {
            report.send(&writer);
        }
        drop(writer);
        for report in reports {
            let own = std::process::id() as i32;
            assert_eq!(Report::receive(reader.as_fd()).unwrap(), Some((report, own)));
        }
        assert_eq!(Report::receive(reader.as_fd()).unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for record in [[10, 0, 0, 0, 0, 0, 0, 0], [1, 99, 0, 0, 0, 0, 0, 0], [3, 99, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Report::decode(record), None);
        }
    }
}
