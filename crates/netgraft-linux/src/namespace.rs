//! Namespaces (namespaces(7)) and the id maps of user namespaces (user_namespaces(7)).

use std::fs;
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::result::check;

/// A set of kinds of namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(i32);

impl Namespaces {
    /// None.
    pub const NONE: Namespaces = Namespaces(0);
    /// User ids and capabilities.
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER);
    /// Process ids; takes effect for the next children.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID);
    /// Network devices, addresses, ports.
    pub const NET: Namespaces = Namespaces(libc::CLONE_NEWNET);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS);
    /// System V IPC and message queues.
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC);
    /// The root of the control groups that are seen.
    pub const CGROUP: Namespaces = Namespaces(libc::CLONE_NEWCGROUP);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS);

    pub(crate) const fn bits(self) -> i32 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Namespaces;
    fn bitor(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}

/// Moves the caller, or for process ids its next children, to new namespaces (unshare(2)).
///
/// # Errors
/// As unshare(2): EPERM, ENOSPC when a limit of `/proc/sys/user` is reached, EINVAL.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: unshare has no memory arguments; descriptors and memory stay as they are.
    check(unsafe { libc::unshare(namespaces.bits()) }).map(drop)
}

/// Moves the caller, which has one thread, to namespaces of another process (setns(2)). In the user namespace it
/// has every capability, and outside of it none any more.
///
/// # Errors
/// As setns(2): EPERM without CAP_SYS_ADMIN over them, ESRCH if the process has ended.
pub fn join(pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: setns has no memory arguments; descriptors and memory stay as they are.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), namespaces.bits()) }).map(drop)
}

/// The user and group ids that a user namespace has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMaps {
    /// Ids from 0 on, which are these of the parent namespace: nobody's there. The first id outside of users and of groups,
    /// and how many there are.
    Apart {
        /// The first user id outside.
        user: u32,
        /// The first group id outside.
        group: u32,
        /// How many of each.
        count: u32,
    },
    /// Every id that these maps of the parent namespace have, the same inside and outside: pairs of first id and count.
    All {
        /// User ids.
        users: Vec<(u32, u32)>,
        /// Group ids.
        groups: Vec<(u32, u32)>,
    },
    /// One user and one group, the same inside and outside: all that a caller without CAP_SETUID may map.
    One {
        /// The user id.
        user: u32,
        /// The group id.
        group: u32,
    },
}

impl IdMaps {
    /// All ids of the caller's own user namespace.
    ///
    /// # Errors
    /// What reading `/proc/self/uid_map` says.
    pub fn all() -> io::Result<IdMaps> {
        let read = |path| fs::read_to_string(path).map(|text| parse_map(&text));
        Ok(IdMaps::All { users: read("/proc/self/uid_map")?, groups: read("/proc/self/gid_map")? })
    }

    /// Whether the maps have a user id.
    #[must_use]
    pub fn has_user(&self, id: u32) -> bool {
        match self {
            IdMaps::All { users, .. } => in_map(users, id),
            IdMaps::Apart { count, .. } => id < *count,
            IdMaps::One { user, .. } => *user == id,
        }
    }

    /// Whether the maps have a group id.
    #[must_use]
    pub fn has_group(&self, id: u32) -> bool {
        match self {
            IdMaps::All { groups, .. } => in_map(groups, id),
            IdMaps::Apart { count, .. } => id < *count,
            IdMaps::One { group, .. } => *group == id,
        }
    }

    /// Writes the maps of a process's user namespace. The caller is in the parent of that namespace.
    ///
    /// # Errors
    /// As user_namespaces(7): EPERM if the caller may not map these ids.
    pub fn write(&self, pid: i32) -> io::Result<()> {
        self.write_to(&pid.to_string())
    }

    /// Writes the maps of the caller's own user namespace, which has none yet: for [`IdMaps::One`] only.
    ///
    /// # Errors
    /// As [`IdMaps::write`].
    pub fn write_own(&self) -> io::Result<()> {
        self.write_to("self")
    }

    /// Whether a user namespace with these maps can have a range of them as its own.
    #[must_use]
    pub fn has_range(&self, first: u32, count: u32) -> bool {
        let within = |map: &[(u32, u32)]| {
            map.iter().any(|&(start, length)| {
                first >= start && u64::from(first - start) + u64::from(count) <= u64::from(length)
            })
        };
        matches!(self, IdMaps::All { users, groups } if within(users) && within(groups))
    }

    fn write_to(&self, pid: &str) -> io::Result<()> {
        let (users, groups) = match self {
            IdMaps::All { users, groups } => (format_map(users), format_map(groups)),
            IdMaps::Apart { user, group, count } => {
                (format!("0 {user} {count}\n"), format!("0 {group} {count}\n"))
            }
            IdMaps::One { user, group } => {
                // Without this an ordinary user may not map a group (user_namespaces(7)).
                fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
                (format_map(&[(*user, 1)]), format_map(&[(*group, 1)]))
            }
        };
        fs::write(format!("/proc/{pid}/uid_map"), users)?;
        fs::write(format!("/proc/{pid}/gid_map"), groups)
    }
}

fn in_map(map: &[(u32, u32)], id: u32) -> bool {
    map.iter().any(|&(first, count)| id >= first && id - first < count)
}

/// First inside id and count of each line "inside outside count".
fn parse_map(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let first = words.next()?.parse().ok()?;
            let count = words.nth(1)?.parse().ok()?;
            Some((first, count))
        })
        .collect()
}

fn format_map(map: &[(u32, u32)]) -> String {
    map.iter().map(|(first, count)| format!("{first} {first} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_written_as_identities() {
        let map = parse_map("         0     100000      65536\n     70000          1          2\n");
        assert_eq!(map, [(0, 65536), (70000, 2)]);
        assert_eq!(format_map(&map), "0 0 65536\n70000 70000 2\n");
        assert!(in_map(&map, 65535) && in_map(&map, 70001));
        assert!(!in_map(&map, 65536) && !in_map(&map, 70002));
    }

    #[test]
    fn ranges_are_within_one_line_of_a_map() {
        let maps = IdMaps::All { users: vec![(0, 100), (1000, 100)], groups: vec![(0, 2000)] };
        assert!(maps.has_range(0, 100) && maps.has_range(1050, 50));
        assert!(!maps.has_range(0, 101) && !maps.has_range(99, 2) && !maps.has_range(u32::MAX, 2));
        assert!(!IdMaps::One { user: 5, group: 5 }.has_range(5, 1));
    }

    #[test]
    fn the_whole_range_has_nobody() {
        let maps = IdMaps::All { users: parse_map("0 0 4294967295"), groups: vec![(0, 1)] };
        assert!(maps.has_user(65534));
        assert!(!maps.has_group(65534));
    }
}
