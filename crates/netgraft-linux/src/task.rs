//! The program's threads as seen by the sentry: their memory and their descriptors.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::inspector::Inspector;

/// `PIDFD_THREAD` of pidfd_open(2), Linux 6.9.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// How many threads' pidfds are kept at most.
pub const CACHED: usize = 256;

/// Reads memory of a thread (process_vm_readv(2)) and returns how many bytes could be read.
///
/// # Errors
/// EFAULT if the first byte is not mapped, ESRCH if the thread is gone, EPERM if it may not be inspected.
pub fn read_memory(tid: u32, address: u64, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: `local` describes `buf`, which is writable for its length; `remote` is an address of another
    // process, which the kernel checks.
    let n = unsafe { libc::process_vm_readv(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Writes memory of a thread (process_vm_writev(2)) and returns how many bytes could be written.
///
/// # Errors
/// As [`read_memory`].
pub fn write_memory(tid: u32, address: u64, data: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: data.len() };
    // SAFETY: `local` describes `data`, which the kernel only reads; `remote` is an address of another
    // process, which the kernel checks.
    let n = unsafe { libc::process_vm_writev(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Writes memory of a thread at two places, as [`write_memory`] at one.
///
/// # Errors
/// As [`read_memory`].
pub fn write_both(tid: u32, first: (u64, &[u8]), second: (u64, &[u8])) -> io::Result<usize> {
    let local = [first.1, second.1]
        .map(|data| libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() });
    let remote = [first, second]
        .map(|(address, data)| libc::iovec { iov_base: address as *mut libc::c_void, iov_len: data.len() });
    // SAFETY: `local` describes both pieces of data, which the kernel only reads; `remote` are addresses of another
    // process, which the kernel checks.
    let n = unsafe { libc::process_vm_writev(tid as i32, local.as_ptr(), 2, remote.as_ptr(), 2, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// A pidfd of one thread (pidfd_open(2)). On kernels before 6.9, which have none of threads, it is one of the
/// thread's process: its threads share their descriptors, unless one has left them on purpose (unshare(2)).
///
/// # Errors
/// ESRCH if it is gone.
pub(crate) fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    match pidfd_open(tid, PIDFD_THREAD) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => pidfd_open(process_of(tid)?, 0),
        result => result,
    }
}

/// The process of a thread, from `/proc/TID/status` (proc(5)).
pub(crate) fn process_of(tid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"))
        .map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The process of a thread as people know it, from `/proc/TID/status` (proc(5)): the thread's name, with what is no printable
/// character of ASCII replaced, and the process's number in its own process-id namespace.
#[must_use]
pub fn title(tid: u32) -> Option<String> {
    // A name is whatever the program likes.
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let name: String =
        field("Name:")?.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    let number = field("NStgid:").and_then(|numbers| numbers.split_whitespace().next_back())?;
    Some(format!("{name}[{number}]"))
}

/// The number of a thread's process in its own process-id namespace, and its executable (proc(5), `/proc/TID/exe`), with what is
/// no character replaced; `None` if there is no such thread.
#[must_use]
pub fn executable(tid: u32) -> Option<(u32, Option<String>)> {
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|line| line.strip_prefix("NStgid:"))?;
    let number = numbers.split_whitespace().next_back()?.parse().ok()?;
    let path = std::fs::read_link(format!("/proc/{tid}/exe"));
    Some((number, path.ok().map(|path| path.to_string_lossy().into_owned())))
}

/// When a thread was started, in ticks since the system booted (proc(5), `/proc/TID/stat`, field 22): another thread
/// that gets the same number later has another one. `None` if there is no such thread.
#[must_use]
pub fn started(tid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    // The second field, the name, is in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The number of the namespace of this kind ("net", "user") that a thread is in, as /proc shows it (namespaces(7)).
///
/// # Errors
/// ENOENT if there is no such thread, EACCES if it may not be inspected.
pub fn namespace(tid: u32, kind: &str) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{tid}/ns/{kind}")).map(|namespace| namespace.ino())
}

/// The same for the calling process, whatever its number is in the process-id namespace of `/proc`.
///
/// # Errors
/// ENOENT if `/proc` is not mounted.
pub fn own_namespace(kind: &str) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/self/ns/{kind}")).map(|namespace| namespace.ino())
}

/// Whether a thread has a capability in its user namespace (proc(5), `CapEff` of `/proc/TID/status`; capabilities(7)
/// has the numbers).
#[must_use]
pub fn has_capability(tid: u32, number: u8) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|set| set.checked_shr(u32::from(number)).is_some_and(|bits| bits & 1 != 0))
}

/// Whether a system call filter watches over a thread (proc(5), `Seccomp` of `/proc/TID/status`).
pub(crate) fn is_filtered(tid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).is_some_and(|mode| mode.trim() == "2")
}

/// Whether the thread of a pidfd lives: it has a table of descriptors, in which nothing is -1 (pidfd_getfd(2)).
pub(crate) fn lives(pidfd: &OwnedFd) -> bool {
    matches!(get_fd(pidfd, -1), Err(error) if error.raw_os_error() == Some(libc::EBADF))
}

/// A line of `/proc/PROCESS/fdinfo/FD` (proc(5)): what follows `field`.
fn fdinfo(process: &str, fd: i32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

/// Whether a descriptor of a thread is closed on exec. `false` if there is no such descriptor.
#[must_use]
pub fn is_closed_on_exec(tid: u32, fd: i32) -> bool {
    let flags = fdinfo(&tid.to_string(), fd, "flags:").and_then(|flags| i32::from_str_radix(&flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// Whether a thread has a descriptor of this number.
#[must_use]
pub fn has_descriptor(tid: u32, fd: i32) -> bool {
    fdinfo(&tid.to_string(), fd, "flags:").is_some()
}

/// Whether a descriptor of a thread is a socket, found without touching its file: all sockets of the system are on one
/// mount, that of `own_socket`.
#[must_use]
pub fn is_socket(tid: u32, fd: i32, own_socket: std::os::fd::BorrowedFd<'_>) -> bool {
    let own = fdinfo("self", own_socket.as_raw_fd(), "mnt_id:");
    own.is_some() && fdinfo(&tid.to_string(), fd, "mnt_id:") == own
}

/// The processes that are to be seen in `/proc`: those of its process-id namespace. Makes no other calls than openat(2) and
/// getdents64(2): glibc's opendir(3) makes newfstatat(2), which the sentry may not.
#[must_use]
pub fn processes() -> Vec<u32> {
    let Ok(proc) = File::open("/proc") else { return Vec::new() };
    let (mut all, mut room) = (Vec::new(), [0_u8; 8192]);
    loop {
        // SAFETY: `room` is writable for the length that is passed, and nothing else refers to it.
        let got =
            unsafe { libc::syscall(libc::SYS_getdents64, proc.as_raw_fd(), room.as_mut_ptr(), room.len()) };
        let entries = usize::try_from(got).ok().filter(|got| *got > 0).and_then(|got| room.get(..got));
        let Some(entries) = entries else { return all };
        all.extend(names(entries).filter_map(|name| std::str::from_utf8(name).ok()?.parse::<u32>().ok()));
    }
}

/// The names of entries (`struct linux_dirent64`, getdents64(2)).
fn names(mut entries: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*entries.get(16..)?.first_chunk()?));
        let (entry, rest) = entries.split_at_checked(len).filter(|(entry, _)| entry.len() > 19)?;
        entries = rest;
        entry.get(19..)?.split(|&byte| byte == 0).next()
    })
}

/// How many descriptors a process has room for: their numbers are below this (proc(5), `FDSize`).
#[must_use]
pub fn descriptors(process: u32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

fn pidfd_open(pid: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What is known of a thread.
#[derive(Debug)]
struct Known {
    pidfd: OwnedFd,
    /// The process that it is a thread of, once that was asked.
    process: Option<u32>,
}

/// Duplicates descriptors of the program's threads.
#[derive(Debug)]
pub struct Tasks {
    pidfds: HashMap<u32, Known>,
    /// How many are kept.
    room: usize,
    /// Who looks into them, where this process may not.
    inspector: Option<Inspector>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No thread is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(CACHED)
    }

    /// The same, with fewer pidfds kept than [`CACHED`].
    #[must_use]
    pub fn with_room(room: usize) -> Self {
        Tasks { pidfds: HashMap::new(), room: room.min(CACHED), inspector: None }
    }

    /// Duplicates descriptor `fd` of thread `tid` (pidfd_getfd(2)): the same open file.
    ///
    /// # Errors
    /// EBADF if the thread has no such descriptor, ESRCH if it is gone, EPERM if it may not be inspected.
    pub fn duplicate(&mut self, tid: u32, fd: i32) -> io::Result<OwnedFd> {
        if let Some(inspector) = &self.inspector {
            return inspector.duplicate(tid, fd);
        }
        if let Some(known) = self.pidfds.get(&tid) {
            match get_fd(&known.pidfd, fd) {
                // The number belongs to another thread by now.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => return result,
            }
        }
        let pidfd = open_thread(tid)?;
        let result = get_fd(&pidfd, fd);
        self.keep(tid, Known { pidfd, process: None });
        result
    }

    /// The process that a thread belongs to.
    ///
    /// # Errors
    /// ESRCH if it is gone.
    pub fn process(&mut self, tid: u32) -> io::Result<u32> {
        if let Some(inspector) = &self.inspector {
            return inspector.process(tid);
        }
        if let Some(Known { pidfd, process: Some(process) }) = self.pidfds.get(&tid)
            && !has_ended(pidfd)
        {
            return Ok(*process);
        }
        let pidfd = open_thread(tid)?;
        let process = process_of(tid)?;
        self.keep(tid, Known { pidfd, process: Some(process) });
        Ok(process)
    }

    fn keep(&mut self, tid: u32, known: Known) {
        if self.pidfds.len() >= self.room {
            self.pidfds.clear();
        }
        self.pidfds.insert(tid, known);
    }
}

impl Tasks {
    /// Whether the thread that a descriptor was last duplicated of under this number lives: then the number still is its.
    /// `false` if that is not known any more.
    #[must_use]
    pub fn is_alive(&self, tid: u32) -> bool {
        match &self.inspector {
            Some(inspector) => inspector.is_alive(tid),
            None => self.pidfds.get(&tid).is_some_and(|known| lives(&known.pidfd)),
        }
    }

    /// Has an inspector look into the threads from now on: this process may not.
    pub fn set_inspector(&mut self, inspector: Inspector) {
        self.inspector = Some(inspector);
    }
}

/// The functions of this module, by the inspector where there is one.
impl Tasks {
    /// [`read_memory`].
    ///
    /// # Errors
    /// As there.
    pub fn read_memory(&self, tid: u32, address: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &self.inspector {
            Some(inspector) => inspector.read_memory(tid, address, buf),
            None => read_memory(tid, address, buf),
        }
    }

    /// [`write_memory`].
    ///
    /// # Errors
    /// As there.
    pub fn write_memory(&self, tid: u32, address: u64, data: &[u8]) -> io::Result<usize> {
        match &self.inspector {
            Some(inspector) => inspector.write_memory(tid, address, data),
            None => write_memory(tid, address, data),
        }
    }

    /// [`write_both`].
    ///
    /// # Errors
    /// As there.
    pub fn write_both(&self, tid: u32, first: (u64, &[u8]), second: (u64, &[u8])) -> io::Result<usize> {
        let Some(inspector) = &self.inspector else { return write_both(tid, first, second) };
        let done = inspector.write_memory(tid, first.0, first.1)?;
        if done < first.1.len() {
            return Ok(done);
        }
        Ok(done + inspector.write_memory(tid, second.0, second.1)?)
    }

    /// [`is_closed_on_exec`].
    #[must_use]
    pub fn is_closed_on_exec(&self, tid: u32, fd: i32) -> bool {
        self.inspector.as_ref().map_or_else(|| is_closed_on_exec(tid, fd), |i| i.is_closed_on_exec(tid, fd))
    }

    /// [`has_descriptor`].
    #[must_use]
    pub fn has_descriptor(&self, tid: u32, fd: i32) -> bool {
        self.inspector.as_ref().map_or_else(|| has_descriptor(tid, fd), |i| i.has_descriptor(tid, fd))
    }

    /// [`is_socket`].
    #[must_use]
    pub fn is_socket(&self, tid: u32, fd: i32, own_socket: std::os::fd::BorrowedFd<'_>) -> bool {
        self.inspector.as_ref().map_or_else(|| is_socket(tid, fd, own_socket), |i| i.is_socket(tid, fd))
    }

    /// [`namespace`], of the kinds "net" and "user".
    ///
    /// # Errors
    /// As there.
    pub fn namespace(&self, tid: u32, kind: &str) -> io::Result<u64> {
        self.inspector.as_ref().map_or_else(|| namespace(tid, kind), |i| i.namespace(tid, kind))
    }

    /// [`has_capability`].
    #[must_use]
    pub fn has_capability(&self, tid: u32, number: u8) -> bool {
        self.inspector.as_ref().map_or_else(|| has_capability(tid, number), |i| i.has_capability(tid, number))
    }

    /// [`started`].
    #[must_use]
    pub fn started(&self, tid: u32) -> Option<u64> {
        self.inspector.as_ref().map_or_else(|| started(tid), |i| i.started(tid))
    }

    /// [`title`].
    #[must_use]
    pub fn title(&self, tid: u32) -> Option<String> {
        self.inspector.as_ref().map_or_else(|| title(tid), |i| i.title(tid))
    }
}

/// Whether the thread of a pidfd has ended (pidfd_open(2): it is readable then).
fn has_ended(pidfd: &OwnedFd) -> bool {
    crate::unix::readable(pidfd.as_fd()).unwrap_or(true)
}

pub(crate) fn get_fd(pidfd: &OwnedFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_that_are_seen() {
        let (all, own) = (processes(), std::process::id());
        assert!(all.contains(&own) && all.contains(&1), "{own}: {all:?}");
        let mut entry = vec![0; 24];
        entry[16..18].copy_from_slice(&24_u16.to_ne_bytes());
        entry[19..22].copy_from_slice(b"123");
        let two = [entry.clone(), entry].concat();
        assert_eq!(names(&two).collect::<Vec<_>>(), [b"123", b"123"]);
        for len in 0..two.len() {
            assert!(names(&two[..len]).count() < 2);
        }
    }
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn processes_are_listed_without_names_that_are_no_numbers() {
        let found = processes();
        assert!(found.contains(&std::process::id()) && found.contains(&1));
        // Cut entries and such without a length end it.
        assert_eq!(names(&[0; 18]).count(), 0);
        assert_eq!(names(&[0; 40]).count(), 0);
        let mut entry = [0; 24];
        entry[16] = 24;
        entry[19..22].copy_from_slice(b"123");
        assert_eq!(names(&[&entry[..], &entry[..]].concat()).collect::<Vec<_>>(), [b"123", b"123"]);
    }

    #[test]
    fn memory_is_read_written_and_refused() {
        let me = std::process::id();
        let mut target = *b"surrogate";
        let at = target.as_mut_ptr() as u64;
        let mut seen = [0; 9];
        assert_eq!(read_memory(me, at, &mut seen).unwrap(), 9);
        assert_eq!(&seen, b"surrogate");
        assert_eq!(write_memory(me, at, b"S").unwrap(), 1);
        assert_eq!(std::hint::black_box(&target)[0], b'S');
        assert_eq!(read_memory(me, 8, &mut seen).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(read_memory(me, u64::MAX, &mut seen).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_title_is_the_threads_name_and_the_processs_number() {
        let thread = std::thread::Builder::new().name("a\u{7}\u{e4} b".to_owned());
        // SAFETY: the call takes nothing and returns a number.
        let told = thread.spawn(|| title(unsafe { libc::gettid() } as u32)).unwrap().join().unwrap();
        let own = std::process::id();
        assert!(told.as_ref().is_some_and(|told| told.ends_with(&format!(" b[{own}]"))), "{told:?}");
        assert!(told.is_some_and(|told| told.starts_with('a') && told.is_ascii()));
        assert_eq!(title(u32::MAX), None);
    }

    #[test]
    fn a_thread_is_found_by_its_process_too() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let number = reader.as_raw_fd();
        let thread = std::thread::spawn(move || {
            // SAFETY: the call takes nothing and returns a number.
            let tid = unsafe { libc::gettid() } as u32;
            let by_process = pidfd_open(process_of(tid).unwrap(), 0).unwrap();
            get_fd(&by_process, number).unwrap();
            let mut tasks = Tasks::new();
            let asked = [tasks.process(tid).unwrap(), tasks.process(tid).unwrap()];
            assert_eq!(asked, [std::process::id(); 2]);
            process_of(tid).unwrap()
        });
        assert_eq!(thread.join().unwrap(), std::process::id());
        assert_eq!(process_of(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn threads_are_told_apart_and_known_by_their_namespaces() {
        let me = std::process::id();
        assert!(started(me).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(u32::MAX), None);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (mine, its) = (namespace(me, "net").unwrap(), namespace(child.id(), "net").unwrap());
        assert!(mine > 0 && mine == its);
        assert!(namespace(u32::MAX, "net").is_err());
        assert_eq!(own_namespace("net").unwrap(), mine);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_descriptor_is_known_to_be_a_socket_or_not() {
        let me = std::process::id();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let own = std::os::fd::AsFd::as_fd(&a);
        assert!(is_socket(me, b.as_raw_fd(), own));
        assert!(!is_socket(me, file.as_raw_fd(), own));
        assert!(!is_socket(me, -1, own));
        assert!(is_closed_on_exec(me, file.as_raw_fd()));
        assert!(!is_closed_on_exec(me, -1));
        assert!(has_descriptor(me, file.as_raw_fd()));
        assert!(!has_descriptor(me, -1));
    }

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let mut tasks = Tasks::new();
        let me = std::process::id();
        let copy = tasks.duplicate(me, reader.as_raw_fd()).unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(copy), &mut text).unwrap();
        assert_eq!(text, "x");
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "x", "the duplicate had read it");
        assert_eq!(tasks.duplicate(me, -1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(tasks.is_alive(me));
    }

    #[test]
    fn a_thread_that_has_ended_is_not_alive_though_its_number_is_known() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut tasks = Tasks::new();
        assert!(!tasks.is_alive(child.id()), "no descriptor was duplicated of it");
        assert!(tasks.duplicate(child.id(), reader.as_raw_fd()).is_err());
        tasks.duplicate(child.id(), 0).unwrap();
        assert!(tasks.is_alive(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!tasks.is_alive(child.id()));
    }
}
