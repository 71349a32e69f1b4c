//! An object that was looked at: what it is, and how it becomes a stack.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netgraft_linux::confine::Allow;
use netgraft_plugin::registry::Factory;
use netgraft_plugin::stack::StackInfo;
use netgraft_plugin::{PluginStack, StackConfig, SyscallRule};

use crate::child::{self, Failure, Left, Rights};
use crate::error::{Fault, LoadError};
use crate::level0::Level0Stack;
use crate::level1::Level1Stack;
use crate::library::{self, Library};
use crate::log::printable;
use crate::needed;
use crate::probe::{self, Seen};
use crate::watch::{Call, Caller, Watch};

/// How long an object may take to be looked at.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes that an object or one of its dependencies has.
const SIZE_LIMIT: u64 = 1 << 30;

/// Which interface an object speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// The existing C functions, `plugin_*`.
    Zero,
    /// The table of `netgraft.h`.
    One,
}

/// How an object's code is treated outside of the sentry.
#[derive(Clone, Debug)]
pub struct Care {
    /// The sentry's allow-list without what stacks add to it: the object's constructors run behind it, and its pre-init.
    pub base: Vec<Allow>,
    /// Whether its pre-init has the rights of the launcher, to open devices itself.
    pub trust_pre_init: bool,
}

impl Care {
    /// The allow-list for code that links the object, with these rules of the stack.
    fn rules(&self, own: &[SyscallRule]) -> Vec<Allow> {
        let all = own.iter().chain(&crate::loader_rules()).map(to_allow).collect::<Vec<_>>();
        [self.base.clone(), all].concat()
    }
}

fn to_allow(rule: &SyscallRule) -> Allow {
    let conditions = rule.conditions.iter().map(|c| (c.index, c.mask, c.value)).collect();
    Allow { number: rule.number, conditions }
}

/// An object that was read and looked at. It is linked into this process only by the stacks that are made of it
/// ([`Loaded::factory`]), and there only when their turn comes.
pub struct Loaded {
    object: String,
    level: Level,
    info: StackInfo,
    host_fds: bool,
    rules: Vec<SyscallRule>,
    doubts: Vec<String>,
    file: OwnedFd,
    /// What it needs beside what this process has, itself excluded.
    dependencies: Vec<OwnedFd>,
    watch: Watch,
    used: AtomicBool,
    left: Left,
    trust_pre_init: bool,
    /// The system calls of a pre-init that is not trusted.
    pre_init_rules: Vec<Allow>,
}

/// Reads an object and what it depends on, and looks at it in a child process without rights: its constructors run there,
/// as does `netgraft_stack`.
///
/// Nothing of the object runs in the caller's process. The file may be changed or removed afterwards.
///
/// # Errors
/// One line for the operator, with the object's name.
pub fn load(path: &Path, care: &Care) -> Result<Loaded, LoadError> {
    let object = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let named = |fault| LoadError { object: path.display().to_string(), fault };
    let bytes = read(path).map_err(named)?;
    crate::elf::check(&bytes).map_err(named)?;
    let host = |e| named(Fault::Host(e));
    let file = library::memory_copy(&object, &bytes).map_err(host)?;
    // A name without a slash would be looked for where libraries are.
    let absolute = fs::canonicalize(path).map_err(|e| named(Fault::Read(e)))?;
    let needed = needed::find(&absolute, &bytes, &library::linked_files(), read).map_err(named)?;
    drop(bytes);
    let dependencies = needed
        .iter()
        .map(|object| library::memory_copy(&object.name, &object.bytes).map_err(host))
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    drop(needed);
    let look = || probe::look(link_in_order(file.as_fd(), &dependencies));
    // Whatever its level, it may do what level 0 is known to do; its own list is not known yet.
    let rules = care.rules(&crate::level0::rules());
    let keep: Vec<_> = std::iter::once(&file).chain(&dependencies).map(AsFd::as_fd).collect();
    let answer = child::run(&object, "its constructors", &keep, Rights::None(&rules), PROBE_LIMIT, look);
    let (report, _) = answer.map_err(|failure| {
        named(match failure {
            Failure::Host(e) => Fault::Host(e),
            Failure::Died(text) | Failure::Said(text) => Fault::Died(text),
        })
    })?;
    let Seen { level, report } = probe::understand(&report).map_err(named)?;
    let doubts = report.as_ref().map(|report| report.doubts.iter().map(|text| printable(text)).collect());
    let (info, host_fds, rules) = match (level, report) {
        (Level::One, Some(report)) => {
            let (mut info, host_fds, rules) = report.into_parts().map_err(named)?;
            // One that is trusted opens its link itself.
            info.wraps_link = !care.trust_pre_init;
            (info, host_fds, rules)
        }
        _ => {
            let name = stem(&object);
            (crate::level0::info(&name), false, crate::level0::rules())
        }
    };
    let watch = Watch::new().map_err(host)?;
    let pre_init_rules = care.rules(&rules);
    Ok(Loaded {
        object,
        level,
        info,
        host_fds,
        rules,
        doubts: doubts.unwrap_or_default(),
        file,
        dependencies,
        watch,
        used: AtomicBool::new(false),
        left: Left::default(),
        trust_pre_init: care.trust_pre_init,
        pre_init_rules,
    })
}

/// `libfoo.so.1` is the stack `foo`.
fn stem(object: &str) -> String {
    let name = object.split(".so").next().unwrap_or(object);
    name.strip_prefix("lib").filter(|rest| !rest.is_empty()).unwrap_or(name).to_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let about = fs::metadata(path).map_err(Fault::Read)?;
    // A device or a pipe might never end.
    if !about.is_file() {
        return Err(Fault::NotElf);
    }
    if about.len() > SIZE_LIMIT {
        return Err(Fault::Read(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(Fault::Read)
}

impl Loaded {
    /// The file's name, without its directory: how messages name the stack.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Which interface it speaks.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// What it says of itself.
    #[must_use]
    pub const fn info(&self) -> &StackInfo {
        &self.info
    }

    /// The system calls that it needs in the sentry beyond the base.
    #[must_use]
    pub fn rules(&self) -> &[SyscallRule] {
        &self.rules
    }

    /// What makes programs fail, each as the end of a sentence: "does not declare the option …".
    #[must_use]
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    pub(crate) const fn offers_host_fds(&self) -> bool {
        self.host_fds
    }

    /// The descriptors that must stay open in a process in which a stack of this object is to be initialised.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.fds().map(|fd| fd.as_raw_fd()).collect()
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.file).chain(&self.dependencies).map(AsFd::as_fd)
    }

    /// The call of the object that the loop of whatever process has a stack of it is making, or was when that process
    /// died; and a number that grows with each call, to tell a hang from work. For the launcher.
    #[must_use]
    pub fn current_call(&self) -> (Option<&'static str>, u64) {
        self.watch.current()
    }

    /// The same for the thread that drives a level 0 stack's events, if `thread` is its id (gettid(2)).
    #[must_use]
    pub fn driver_call(&self, thread: i32) -> Option<&'static str> {
        self.watch.of_driver(thread)
    }

    /// Forgets the calls of a process that has died: another one is to have a stack of this object.
    pub fn forget_calls(&self) {
        self.watch.clear();
    }

    /// One line for the operator about the end of the process that ran a stack of this object; `signal` is the one
    /// that ended it.
    #[must_use]
    pub fn death_text(&self, signal: i32) -> String {
        let signal = child::signal_name(signal);
        match self.current_call().0 {
            Some(call) => format!("the stack {} died of {signal} in {call}", self.object),
            None => format!("the stack {} died of {signal} outside of any call", self.object),
        }
    }

    /// Whether no stack of this object was linked into this process before.
    pub(crate) fn is_first_use(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }

    /// What its pre-init may do.
    pub(crate) fn pre_init_rights(&self) -> Rights<'_> {
        if self.trust_pre_init { Rights::Same(&self.left) } else { Rights::Asking(&self.pre_init_rules) }
    }

    /// Whether the operator trusts its pre-init with the rights of the launcher.
    #[must_use]
    pub const fn trusts_pre_init(&self) -> bool {
        self.trust_pre_init
    }

    pub(crate) const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Makes stacks of this object, for [`netgraft_plugin::register_plugin_stack`].
    #[must_use]
    pub fn factory(self: &Arc<Self>) -> Arc<Factory> {
        let loaded = Arc::clone(self);
        Arc::new(move |config: &StackConfig| {
            let (loaded, config) = (Arc::clone(&loaded), config.clone());
            Ok(match loaded.level {
                Level::Zero => Box::new(Level0Stack::new(loaded, &config)?) as Box<dyn PluginStack>,
                Level::One => Box::new(Level1Stack::new(loaded, config)),
            })
        })
    }

    /// Links the object into this process: its dependencies before it, since what the dynamic linker knows by its
    /// name (`DT_SONAME`) it does not look for in the file system.
    pub(crate) fn link(&self) -> Result<Library, String> {
        let _inside = self.watch.enter(Caller::Loop, Call::loading);
        link_in_order(self.file.as_fd(), &self.dependencies)
    }

    /// As [`Loaded::link`], with memory of its own even if the object is linked already: for objects that keep their
    /// state in global variables.
    pub(crate) fn link_apart(&self) -> Result<Library, String> {
        let copy = || {
            let bytes = fs::read(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
            library::memory_copy(&self.object, &bytes)
        };
        match copy() {
            Ok(copy) => Library::open_fd(copy.as_fd()),
            Err(e) => Err(format!("cannot be copied: {e}")),
        }
    }
}

/// Links what an object depends on, and then itself.
fn link_in_order(file: BorrowedFd<'_>, dependencies: &[OwnedFd]) -> Result<Library, String> {
    let mut left: Vec<&OwnedFd> = dependencies.iter().rev().collect();
    loop {
        let before = left.len();
        // One whose own dependencies are not there yet comes again in the next round.
        left.retain(|fd| Library::open_fd(fd.as_fd()).is_err());
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    Library::open_fd(file)
}

/// Makes stacks of an object: [`load`] and [`Loaded::factory`] in one, for callers that do not confine the process in
/// which the stack runs.
///
/// # Errors
/// As [`load`].
pub fn factory_for_path(path: &Path, care: &Care) -> Result<Arc<Factory>, LoadError> {
    load(path, care).map(|loaded| Arc::new(loaded).factory())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        for (file, name) in
            [("libfoo.so", "foo"), ("libfoo.so.1.2", "foo"), ("bar", "bar"), ("lib.so", "lib")]
        {
            assert_eq!(stem(file), name);
        }
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        let text = |path: &str| {
            load(Path::new(path), &Care { base: Vec::new(), trust_pre_init: false })
                .err()
                .map(|e| e.to_string())
                .unwrap()
        };
        assert!(text("/nowhere.so").starts_with("/nowhere.so: cannot be read: No such file"));
        assert_eq!(text("/etc/passwd"), "/etc/passwd: is not a shared object: it is no ELF file");
        assert_eq!(text("/dev/zero"), "/dev/zero: is not a shared object: it is no ELF file");
        assert!(text("/proc/self/exe").contains("/proc/self/exe: "), "an executable");
    }
}
