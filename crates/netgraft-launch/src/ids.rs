//! The ids that a sandbox's programs have outside, where these are none of the host's: a range that no other sandbox which
//! runs has.
//!
//! The ids are bytes of a file that only root opens, and a sandbox holds the lock of its own (fcntl(2), `F_OFD_SETLK`). The lock ends
//! with the launcher, however that ends. The range is drawn, so that what one sandbox leaves behind belongs to no later one.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use netgraft_linux::lock;
use netgraft_linux::namespace::IdMaps;

use crate::error::RunError;
use crate::spec::Ids;

/// How many ids a sandbox has that has none of the host's.
const COUNT: u32 = 65_536;
/// The ids that are set aside for containers which are made and forgotten (systemd's "Users, Groups, UIDs and GIDs"): nothing
/// on the host is theirs. The first, and one after the last.
const CONTAINERS: (u32, u32) = (524_288, 1_879_048_192);
/// Those of services that are, from the same list: for a user namespace that has few ids.
const SERVICES: (u32, u32) = (61_184, 65_520);
/// What may be drawn before ids are shared: where all are taken there are tens of thousands of sandboxes.
const DRAWS: u32 = 1024;
/// Whose bytes the ids are.
const FOLDER: &str = "/run/netgraft";

/// The ids of a sandbox's programs.
#[derive(Debug)]
pub(super) struct Apart {
    /// For the programs' user namespace.
    pub(super) maps: IdMaps,
    /// Holds the lock.
    #[expect(dead_code, reason = "gives the ids back when it is dropped")]
    held: Option<File>,
}

/// Ids that can be given to sandboxes, `width` to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Supply {
    user: u32,
    group: u32,
    width: u32,
    count: u32,
}

impl Supply {
    /// What there is of a range, `width` to each sandbox, in each line of a map of user ids.
    fn of(range: (u32, u32), width: u32, have: &IdMaps) -> Vec<Supply> {
        let IdMaps::All { users, .. } = have else { return Vec::new() };
        let within = |&(start, length): &(u32, u32)| {
            let (first, end) = (range.0.max(start), range.1.min(start.saturating_add(length)));
            Supply { user: first, group: first, width, count: end.saturating_sub(first) / width }
        };
        users.iter().map(within).collect()
    }

    /// The ids at a place, if this user namespace has them.
    fn at(&self, place: u32, have: &IdMaps) -> Option<IdMaps> {
        let (user, group) = (self.user + place * self.width, self.group + place * self.width);
        let has = have.has_range(user, self.width) && have.has_range(group, self.width);
        has.then_some(IdMaps::Apart { user, group, count: self.width })
    }
}

/// Takes ids for a sandbox, none of which is somebody's on the host. `None` for an ordinary user, for root of a user
/// namespace that has no such ids, which is not the host's root, and for who wants the host's.
///
/// # Errors
/// Why the sandbox cannot have the ids that the operator named.
pub(super) fn take(wanted: Ids, have: &IdMaps) -> Result<Option<Apart>, RunError> {
    match wanted {
        Ids::Host => Ok(None),
        Ids::From(first) => named(first, have).map(Some),
        Ids::Apart => {
            let subordinate = || {
                let of = |file: &str| {
                    let text = fs::read_to_string(file).unwrap_or_default();
                    text.lines().find_map(root_s_range)
                };
                of("/etc/subuid").zip(of("/etc/subgid"))
            };
            let ids = subordinate().map(|(users, groups)| within(users, groups));
            let others = [Supply::of(CONTAINERS, COUNT, have), Supply::of(SERVICES, 1, have)];
            Ok(draw(ids.into_iter().chain(others.into_iter().flatten()), have, Path::new(FOLDER)))
        }
    }
}

/// The ids from this one on.
fn named(first: u32, have: &IdMaps) -> Result<Apart, RunError> {
    if !have.has_range(first, COUNT) {
        return Err(RunError::Options(format!(
            "--ids {first}: whoever starts netgraft has no such ids; start it as root, with {COUNT} ids from there on"
        )));
    }
    // Whoever names them may have two sandboxes share them.
    let held = held_at(Path::new(FOLDER), first, COUNT).ok().flatten();
    Ok(Apart { maps: IdMaps::Apart { user: first, group: first, count: COUNT }, held })
}

/// Draws ids that no other sandbox holds. Where no lock can be had, it is left to chance.
fn draw(supplies: impl Iterator<Item = Supply>, have: &IdMaps, folder: &Path) -> Option<Apart> {
    for supply in supplies.filter(|supply| supply.count > 0) {
        let start = RandomState::new().build_hasher().finish() % u64::from(supply.count);
        let start = u32::try_from(start).unwrap_or(0);
        for step in 0..supply.count.min(DRAWS) {
            let Some(maps) = supply.at((start + step) % supply.count, have) else { continue };
            let IdMaps::Apart { user, count, .. } = maps else { continue };
            match held_at(folder, user, count) {
                Ok(Some(held)) => return Some(Apart { maps, held: Some(held) }),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "ids cannot be held in {}", folder.display());
                    return Some(Apart { maps, held: None });
                }
            }
        }
    }
    None
}

/// Holds ids, unless another sandbox does.
fn held_at(folder: &Path, first: u32, count: u32) -> io::Result<Option<File>> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(folder.join("ids"))?;
    Ok(lock::try_range(&file, u64::from(first), u64::from(count))?.then_some(file))
}

/// The ids of two ranges, as many as both have.
fn within(users: (u32, u32), groups: (u32, u32)) -> Supply {
    Supply { user: users.0, group: groups.0, width: COUNT, count: users.1.min(groups.1) / COUNT }
}

/// The first id and the number of root's ids in a line of subuid(5), if they are as many as a sandbox has.
fn root_s_range(line: &str) -> Option<(u32, u32)> {
    let mut words = line.trim().split(':');
    let (user, first, count) =
        (words.next()?, words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u32>().ok()?);
    let fits = count >= COUNT && first.checked_add(count).is_some();
    (matches!(user, "root" | "0") && fits).then_some((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(count: u32) -> IdMaps {
        IdMaps::All { users: vec![(0, count)], groups: vec![(0, count)] }
    }

    fn ids(apart: Option<&Apart>) -> Option<(u32, u32, u32)> {
        match apart?.maps {
            IdMaps::Apart { user, group, count } => Some((user, group, count)),
            _ => None,
        }
    }

    #[test]
    fn root_s_ids_are_read() {
        assert_eq!(root_s_range("root:100000:65536"), Some((100_000, 65_536)));
        assert_eq!(root_s_range("0:100000:165536"), Some((100_000, 165_536)));
        for line in
            ["root:100000:65535", "alice:100000:65536", "root:x:65536", "root", "", "root:4294967295:65536"]
        {
            assert_eq!(root_s_range(line), None, "{line}");
        }
        let supply = within((100_000, 200_000), (300_000, 140_000));
        assert_eq!(supply.count, 2, "as many as both have");
        let second = IdMaps::Apart { user: 165_536, group: 365_536, count: COUNT };
        assert_eq!(supply.at(1, &all(u32::MAX)), Some(second));
    }

    #[test]
    fn sandboxes_that_run_share_no_ids_until_all_are_taken() {
        let folder = std::env::temp_dir().join(format!("netgraft-ids-{}", std::process::id()));
        let three = Supply { user: 1000, group: 5000, width: 10, count: 3 };
        let take = || draw([three].into_iter(), &all(u32::MAX), &folder);
        let held: Vec<Apart> = (0..3).map(|_| take().unwrap()).collect();
        let mut got: Vec<_> = held.iter().map(|apart| ids(Some(apart)).unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [(1000, 5000, 10), (1010, 5010, 10), (1020, 5020, 10)]);
        assert!(take().is_none(), "all are taken");
        // An overlap of one id is enough.
        let other = Supply { user: 1029, group: 1, width: 1, count: 1 };
        assert!(draw([other].into_iter(), &all(u32::MAX), &folder).is_none());
        drop(held);
        // A child that another test has just forked may hold them until it ends.
        let freed = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            take().is_some()
        });
        assert!(freed);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_leaves_it_to_chance() {
        let missing = Path::new("/proc/netgraft-ids");
        let one = Supply { user: 7, group: 8, width: 1, count: 1 };
        let taken = draw([one].into_iter(), &all(u32::MAX), missing);
        assert_eq!(ids(taken.as_ref()), Some((7, 8, 1)));
    }

    #[test]
    fn who_has_few_ids_gives_one() {
        let folder = std::env::temp_dir().join(format!("netgraft-ids-few-{}", std::process::id()));
        let take = |have: &IdMaps| {
            let supplies = [Supply::of(CONTAINERS, COUNT, have), Supply::of(SERVICES, 1, have)];
            draw(supplies.into_iter().flatten(), have, &folder)
        };
        let (user, group, count) = ids(take(&all(u32::MAX)).as_ref()).unwrap();
        assert!(user == group && count == COUNT && user >= CONTAINERS.0 && user + (count - 1) < CONTAINERS.1);
        let (user, _, count) = ids(take(&all(65_536)).as_ref()).unwrap();
        assert!(count == 1 && (SERVICES.0..SERVICES.1).contains(&user));
        let (user, _, count) = ids(take(&all(600_000)).as_ref()).unwrap();
        assert_eq!((user, count), (CONTAINERS.0, COUNT), "the one range that there is");
        assert!(take(&all(100)).is_none());
        assert!(take(&IdMaps::One { user: 1000, group: 1000 }).is_none());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn ids_that_are_named_must_be_there() {
        let told = named(100_000, &all(65_536)).unwrap_err().to_string();
        assert!(told.contains("--ids 100000") && told.contains("as root"), "{told}");
        assert!(named(u32::MAX, &all(u32::MAX)).is_err());
        let apart = named(1_000_000, &all(u32::MAX)).unwrap();
        assert_eq!(ids(Some(&apart)), Some((1_000_000, 1_000_000, COUNT)));
    }
}
