//! A control group (cgroups(7)) with limits for the programs of a sandbox, of either version.
//!
//! It is made below the caller's own group or, since version 2 allows no processes beside other groups, beside it. It goes with
//! the sandbox. One that was left behind by a launcher that was killed is empty, and is removed by the next that makes one.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the programs of a sandbox may use together; `None` is as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of memory. A program that needs more is killed by the kernel.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    /// Whether there is any.
    pub(super) const fn is_any(&self) -> bool {
        self.memory.is_some() || self.milli_cpus.is_some() || self.pids.is_some()
    }
}

/// The period over which processor time is counted, in microseconds.
const PERIOD: u64 = 100_000;
/// What the names of our groups begin with; the launcher's process id follows.
const NAME: &str = "netgraft-";
/// What the launcher's own ends with, if it has one.
const LEAF: &str = "-launcher";

/// A controller that limits something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        })
    }
}

/// The groups of a sandbox: one in version 2, one for each controller in version 1. Dropping it removes them, when their
/// processes have ended.
#[derive(Debug, Default)]
pub(super) struct Groups {
    made: Vec<PathBuf>,
    moved: Option<Moved>,
}

/// Where the launcher has gone so that its own group may have others below it (version 2).
#[derive(Debug)]
struct Moved {
    own: PathBuf,
    leaf: PathBuf,
    enabled: Vec<Controller>,
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.made {
            // Somebody else's process in it keeps it.
            let _ = fs::remove_dir(group);
        }
        if let Some(moved) = self.moved.take() {
            moved.back();
        }
    }
}

impl Groups {
    /// Makes groups with these limits. What the caller forks from then on is in its own group, which may be another than before.
    ///
    /// # Errors
    /// One line: what cannot be limited, and what to do.
    pub(super) fn make(limits: &Limits) -> Result<Groups, String> {
        let mut groups = Groups::default();
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path} cannot be read: {e}"));
        let places = Places::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let wanted = [
            limits.memory.map(|_| Controller::Memory),
            limits.milli_cpus.map(|_| Controller::Cpu),
            limits.pids.map(|_| Controller::Pids),
        ];
        let refused = |controllers: &[Controller], e: io::Error| {
            let names: Vec<String> = controllers.iter().map(ToString::to_string).collect();
            format!(
                "there is no control group to limit {} in: {e}; run as root, or in a group that is delegated to you \
                 (systemd-run --user --scope -p Delegate=yes)",
                names.join(", ")
            )
        };
        let mut of_second = Vec::new();
        for controller in wanted.into_iter().flatten() {
            match places.first.iter().find(|(of, _)| *of == controller) {
                Some((_, own)) => {
                    groups.first(controller, limits, own).map_err(|e| refused(&[controller], e))?
                }
                None => of_second.push(controller),
            }
        }
        if !of_second.is_empty() {
            groups.second(&of_second, limits, &places).map_err(|e| refused(&of_second, e))?;
        }
        Ok(groups)
    }

    fn first(&mut self, controller: Controller, limits: &Limits, own: &Path) -> io::Result<()> {
        sweep(own);
        let group = own.join(name());
        self.create(&group)?;
        write_first(&group, controller, limits)
    }

    /// In version 2 a group has either processes or groups with controllers below, but for the root of all. So the new one is
    /// beside the caller's or, where only that one is the caller's to change, the caller moves down beside it.
    fn second(&mut self, wanted: &[Controller], limits: &Limits, places: &Places) -> io::Result<()> {
        let own = places.second.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let is_root = !own.join("cgroup.type").exists();
        let above = own.parent().filter(|_| own != &places.second_root);
        let parent = if is_root { Some(own.as_path()) } else { above };
        let beside = parent.ok_or_else(|| io::ErrorKind::PermissionDenied.into()).and_then(|parent| {
            // Who moves a process must be able to write this one, too (cgroups(7)).
            fs::File::options().write(true).open(parent.join("cgroup.procs"))?;
            enable(parent, wanted)?;
            sweep(parent);
            self.create(&parent.join(name())).map(|()| parent.join(name()))
        });
        let group = match beside {
            Err(_) if !is_root => {
                self.moved = Some(Moved::down(own, wanted)?);
                let group = own.join(name());
                self.create(&group).map(|()| group)
            }
            made => made,
        }?;
        wanted.iter().try_for_each(|controller| write_second(&group, *controller, limits))
    }

    fn create(&mut self, group: &Path) -> io::Result<()> {
        if !self.made.iter().any(|made| made == group) {
            fs::create_dir(group)?;
            self.made.push(group.to_owned());
        }
        Ok(())
    }

    /// Moves a process that has one thread into the groups.
    ///
    /// # Errors
    /// As writing to `cgroup.procs`.
    pub(super) fn take(&self, pid: i32) -> io::Result<()> {
        self.made.iter().try_for_each(|group| move_to(group, pid.unsigned_abs()))
    }
}

impl Moved {
    fn down(own: &Path, wanted: &[Controller]) -> io::Result<Moved> {
        sweep(own);
        let leaf = own.join(format!("{}{LEAF}", name()));
        fs::create_dir(&leaf)?;
        let moved = Moved { own: own.to_owned(), leaf, enabled: wanted.to_vec() };
        let done = move_to(&moved.leaf, std::process::id()).and_then(|()| enable(own, wanted));
        match done {
            Ok(()) => Ok(moved),
            Err(error) => {
                moved.back();
                Err(error)
            }
        }
    }

    fn back(self) {
        // Each alone: those that were never enabled are refused.
        for controller in &self.enabled {
            let _ = fs::write(self.own.join("cgroup.subtree_control"), format!("-{controller}"));
        }
        let _ = move_to(&self.own, std::process::id());
        let _ = fs::remove_dir(&self.leaf);
    }
}

/// Makes controllers available to the groups below one.
fn enable(parent: &Path, wanted: &[Controller]) -> io::Result<()> {
    let control = parent.join("cgroup.subtree_control");
    wanted.iter().try_for_each(|controller| {
        let text = fs::read_to_string(&control)?;
        if text.split_whitespace().any(|word| word == controller.to_string()) {
            return Ok(());
        }
        fs::write(&control, format!("+{controller}"))
    })
}

fn move_to(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// The name of this launcher's group.
fn name() -> String {
    format!("{NAME}{}", std::process::id())
}

/// Removes groups of launchers that are gone. Those with processes stay by themselves.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let launcher = name.to_str().and_then(|name| name.strip_prefix(NAME));
        let pid = launcher.and_then(|pid| pid.strip_suffix(LEAF).unwrap_or(pid).parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn write_first(group: &Path, controller: Controller, limits: &Limits) -> io::Result<()> {
    let write = |file: &str, value: u64| fs::write(group.join(file), value.to_string());
    match controller {
        Controller::Memory => {
            let bytes = limits.memory.unwrap_or(u64::MAX);
            write("memory.limit_in_bytes", bytes)?;
            // Memory and swap together, where the kernel counts that.
            let _ = write("memory.memsw.limit_in_bytes", bytes);
            Ok(())
        }
        Controller::Cpu => {
            write("cpu.cfs_period_us", PERIOD)?;
            write("cpu.cfs_quota_us", quota(limits))
        }
        Controller::Pids => write("pids.max", limits.pids.unwrap_or(u32::MAX).into()),
    }
}

fn write_second(group: &Path, controller: Controller, limits: &Limits) -> io::Result<()> {
    let write = |file: &str, value: String| fs::write(group.join(file), value);
    match controller {
        Controller::Memory => {
            write("memory.max", limits.memory.unwrap_or(u64::MAX).to_string())?;
            let _ = write("memory.swap.max", "0".to_owned());
            Ok(())
        }
        Controller::Cpu => write("cpu.max", format!("{} {PERIOD}", quota(limits))),
        Controller::Pids => write("pids.max", limits.pids.unwrap_or(u32::MAX).to_string()),
    }
}

/// Microseconds of processor time in a period; the kernel takes no fewer than a thousand.
fn quota(limits: &Limits) -> u64 {
    (u64::from(limits.milli_cpus.unwrap_or(u32::MAX)) * PERIOD / 1000).max(1000)
}

/// Where the caller's own groups are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Of version 1, by controller.
    first: Vec<(Controller, PathBuf)>,
    /// Of version 2, and where its root is.
    second: Option<PathBuf>,
    second_root: PathBuf,
}

impl Places {
    /// Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and `/proc/self/cgroup` (cgroups(7)).
    fn parse(mounts: &str, own: &str) -> Places {
        let mut places = Places::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut words = left.split(' ').skip(3);
            let (Some(root), Some(at)) = (words.next(), words.next()) else { continue };
            let mut words = right.split(' ');
            let kind = words.next();
            let options = words.nth(1).unwrap_or_default();
            // The path below the mount, which may show a part only.
            let below = |wanted: &dyn Fn(&str) -> bool| -> Option<PathBuf> {
                let path = own.lines().find_map(|line| {
                    let mut words = line.splitn(3, ':').skip(1);
                    let names = words.next()?;
                    wanted(names).then(|| words.next())?
                })?;
                let rest = Path::new(path).strip_prefix(root).ok()?;
                Some(Path::new(at).join(rest))
            };
            match kind {
                Some("cgroup2") if places.second.is_none() => {
                    places.second = below(&|names| names.is_empty());
                    places.second_root = at.into();
                }
                Some("cgroup") => {
                    for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
                        let name = controller.to_string();
                        let has = |list: &str| list.split(',').any(|word| word == name);
                        if has(options)
                            && !places.first.iter().any(|(of, _)| *of == controller)
                            && let Some(path) = below(&has)
                        {
                            places.first.push((controller, path));
                        }
                    }
                }
                _ => {}
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let first = Places::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 /box /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\nnonsense\n1 2 -",
            "4:memory:/box/inner\n3:cpu,cpuacct:/\n0::/\n",
        );
        let expected = [
            (Controller::Cpu, PathBuf::from("/sys/fs/cgroup/cpu")),
            (Controller::Memory, PathBuf::from("/sys/fs/cgroup/memory/inner")),
        ];
        assert_eq!((first.first.as_slice(), first.second), (expected.as_slice(), None));
        let second = Places::parse(
            "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
            "0::/user.slice/a.scope",
        );
        assert_eq!(second.second, Some("/sys/fs/cgroup/user.slice/a.scope".into()));
        assert_eq!(Places::parse("29 23 0:26 /else /sys/fs/cgroup rw - cgroup2 c rw", "0::/a").second, None);
        assert_eq!(Places::parse("", ""), Places::default());
    }

    #[test]
    fn version_2_is_written_as_its_files_are() {
        let group = std::env::temp_dir().join(format!("netgraft-groups-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let limits = Limits { memory: Some(1 << 20), milli_cpus: Some(1500), pids: Some(7) };
        for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
            write_second(&group, controller, &limits).unwrap();
        }
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        let got = ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map(read);
        fs::remove_dir_all(&group).unwrap();
        assert_eq!(got, ["1048576", "0", "150000 100000", "7"]);
        assert_eq!(quota(&Limits { milli_cpus: Some(1), ..Limits::default() }), 1000);
    }

    /// A folder with the files of a group that matter here.
    fn group(place: &Path, is_root: bool) {
        fs::create_dir_all(place).unwrap();
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(place.join(file), "").unwrap();
        }
        if !is_root {
            fs::write(place.join("cgroup.type"), "domain\n").unwrap();
        }
    }

    #[test]
    fn a_group_of_version_2_is_where_no_processes_are_beside_it() {
        let root = std::env::temp_dir().join(format!("netgraft-tree-{}", std::process::id()));
        let limits = Limits { pids: Some(7), ..Limits::default() };
        let make = |own: &Path, mount: &Path| {
            let places = Places { first: Vec::new(), second: Some(own.into()), second_root: mount.into() };
            let mut groups = Groups::default();
            let made = groups.second(&[Controller::Pids], &limits, &places);
            made.map(|()| groups)
        };
        group(&root, true);
        let below = make(&root, &root).unwrap();
        assert_eq!(below.made, [root.join(name())]);
        let beside = root.join("slice");
        group(&beside, false);
        group(&beside.join("own"), false);
        let groups = make(&beside.join("own"), &root).unwrap();
        assert_eq!(
            (groups.made.as_slice(), groups.moved.is_none()),
            ([beside.join(name())].as_slice(), true)
        );
        let read = |place: PathBuf| fs::read_to_string(place).unwrap();
        assert_eq!(read(beside.join("cgroup.subtree_control")), "+pids");
        // Where the one above is not the caller's, or not to be seen.
        fs::remove_file(beside.join("cgroup.procs")).unwrap();
        for mount in [&root, &beside.join("own")] {
            let own = beside.join("own");
            let groups = make(&own, mount).unwrap();
            assert_eq!(groups.made, [own.join(name())]);
            let leaf = own.join(format!("{}{LEAF}", name()));
            assert_eq!(read(leaf.join("cgroup.procs")), std::process::id().to_string());
            assert_eq!(read(own.join("cgroup.subtree_control")), "+pids");
            drop(groups);
            assert_eq!(read(own.join("cgroup.subtree_control")), "-pids");
            assert_eq!(read(own.join("cgroup.procs")), std::process::id().to_string());
            // The kernel's groups are empty folders to rmdir(2).
            fs::remove_dir_all(leaf).unwrap();
            fs::remove_dir_all(own.join(name())).unwrap();
            fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        }
        fs::remove_dir_all(root).unwrap();
    }
}
