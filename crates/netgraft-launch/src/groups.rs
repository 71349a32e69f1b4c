//! A control group (cgroups(7)) with limits for the programs of a sandbox, of either version.
//!
//! It is made below the caller's own group or, where version 2 allows no processes beside other groups, beside it. It goes with
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
#[derive(Debug)]
pub(super) struct Groups(Vec<PathBuf>);

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            // Somebody else's process in it keeps it.
            let _ = fs::remove_dir(group);
        }
    }
}

impl Groups {
    /// Makes groups with these limits.
    ///
    /// # Errors
    /// One line: what cannot be limited, and what to do.
    pub(super) fn make(limits: &Limits) -> Result<Groups, String> {
        let mut groups = Groups(Vec::new());
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path} cannot be read: {e}"));
        let places = Places::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let wanted = [
            limits.memory.map(|_| Controller::Memory),
            limits.milli_cpus.map(|_| Controller::Cpu),
            limits.pids.map(|_| Controller::Pids),
        ];
        for controller in wanted.into_iter().flatten() {
            groups.limit(controller, limits, &places).map_err(|e| {
                format!(
                    "there is no control group to limit {controller} in: {e}; run as root, or in a group that is delegated \
                     to you (systemd-run --user --scope -p Delegate=yes)"
                )
            })?;
        }
        Ok(groups)
    }

    fn limit(&mut self, controller: Controller, limits: &Limits, places: &Places) -> io::Result<()> {
        let name = format!("{NAME}{}", std::process::id());
        if let Some(own) = places.first.iter().find(|(of, _)| *of == controller).map(|(_, own)| own) {
            sweep(own);
            let group = own.join(&name);
            self.create(&group)?;
            return write_first(&group, controller, limits);
        }
        let own = places.second.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        // In one of these the controller can be had for groups below.
        let parents = [Some(own.as_path()), own.parent().filter(|_| own != &places.second_root)];
        let enabled = |parent: &&Path| {
            let control = parent.join("cgroup.subtree_control");
            let has = || {
                let text = fs::read_to_string(&control).unwrap_or_default();
                text.split_whitespace().any(|word| word == controller.to_string())
            };
            has() || (fs::write(&control, format!("+{controller}")).is_ok() && has())
        };
        let parent = parents.into_iter().flatten().find(enabled).ok_or(io::ErrorKind::PermissionDenied)?;
        sweep(parent);
        let group = parent.join(&name);
        self.create(&group)?;
        write_second(&group, controller, limits)
    }

    fn create(&mut self, group: &Path) -> io::Result<()> {
        if !self.0.iter().any(|made| made == group) {
            fs::create_dir(group)?;
            self.0.push(group.to_owned());
        }
        Ok(())
    }

    /// Moves a process that has one thread into the groups.
    ///
    /// # Errors
    /// As writing to `cgroup.procs`.
    pub(super) fn take(&self, pid: i32) -> io::Result<()> {
        self.0.iter().try_for_each(|group| fs::write(group.join("cgroup.procs"), pid.to_string()))
    }
}

/// Removes groups of launchers that are gone. Those with processes stay by themselves.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse::<u32>().ok());
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
}
