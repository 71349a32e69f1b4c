//! A process that looks into the processes of containers for a sentry that may not.
//!
//! A container that has no user namespace of its own is in the host's, and only who has CAP_SYS_PTRACE over the whole host may
//! duplicate its descriptors or read its memory. The sentry, which runs a stack, is not to have that. So the launcher forks an
//! *inspector* that keeps this one capability, under a system call filter of its own, and does on request what
//! [`crate::task`] does: for threads that a system call filter watches over and that are in the containers' network namespace
//! or, having left it, in a process-id namespace of theirs, and for nobody else.
//!
//! One request and one answer are each one packet. The inspector ends when its peer closes the socket pair, or when the
//! launcher ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::capability::{self, Capability};
use crate::confine::{self, Allow, AllowList};
use crate::fdpass;
use crate::process;
use crate::shared::Words;
use crate::task;

/// Bytes of a program's memory that one packet carries.
const CHUNK: usize = 32 * 1024;
/// Bytes before them: four words in a request, two in an answer.
const ASKS: usize = 32;
const ANSWERS: usize = 16;
/// Threads whose descriptors are kept.
const KNOWN: usize = 256;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Ask {
    Read = 1,
    Write,
    Duplicate,
    Process,
    IsAlive,
    IsClosedOnExec,
    HasDescriptor,
    IsSocket,
    Network,
    User,
    Capability,
    Started,
    Title,
}

impl Ask {
    const ALL: [Ask; 13] = [
        Ask::Read,
        Ask::Write,
        Ask::Duplicate,
        Ask::Process,
        Ask::IsAlive,
        Ask::IsClosedOnExec,
        Ask::HasDescriptor,
        Ask::IsSocket,
        Ask::Network,
        Ask::User,
        Ask::Capability,
        Ask::Started,
        Ask::Title,
    ];
}

/// The numbers of the namespaces whose threads may be looked into, in memory that is shared with an inspector: that of the
/// network, and those of process ids; 0 where there is none.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Words>);

impl Scope {
    /// No namespace yet.
    ///
    /// # Errors
    /// ENOMEM
    pub fn new() -> io::Result<Scope> {
        Ok(Scope(Arc::new(Words::new()?)))
    }

    /// The network namespace from now on.
    pub fn set(&self, network: u64) {
        self.0.word(0).store(network, Ordering::Release);
    }

    /// Adds a process-id namespace, which is not the host's. Where there are too many, the threads in it that leave the
    /// network are nobody's.
    pub fn add_processes(&self, namespace: u64) {
        let mut words = (1..Words::COUNT).map(|index| self.0.word(index));
        let place = words.find(|word| [0, namespace].contains(&word.load(Ordering::Acquire)));
        if let Some(place) = place {
            place.store(namespace, Ordering::Release);
        }
    }

    /// Whether a thread is in one of the namespaces.
    fn has(&self, tid: u32) -> io::Result<bool> {
        let is = |index, number| number != 0 && self.0.word(index).load(Ordering::Acquire) == number;
        if is(0, task::namespace(tid, "net")?) {
            return Ok(true);
        }
        let processes = task::namespace(tid, "pid")?;
        Ok((1..Words::COUNT).any(|index| is(index, processes)))
    }
}

/// Forks an inspector; the socket is for [`Inspector::new`]. The caller has one thread.
///
/// # Errors
/// Those of socketpair(2) and fork(2).
pub fn start(scope: &Scope) -> io::Result<OwnedFd> {
    let (ours, theirs) = fdpass::pair()?;
    process::fork(|| {
        let served = confine_inspector(theirs.as_fd()).and_then(|()| serve(theirs.as_fd(), scope));
        i32::from(served.is_err())
    })?;
    Ok(ours)
}

/// Gives up all but the socket and the one capability.
fn confine_inspector(socket: BorrowedFd<'_>) -> io::Result<()> {
    confine::die_with_parent()?;
    process::new_session()?;
    process::close_all_but(&[socket.as_raw_fd()])?;
    confine::set_name(c"netgraft-inspec")?;
    capability::keep_only(Capability::SYS_PTRACE)?;
    confine::no_new_privileges()?;
    confine::not_dumpable()?;
    confine::die_with_parent()?;
    let calls = [
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_openat,
        libc::SYS_read,
        libc::SYS_statx,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_getrandom,
        libc::SYS_exit_group,
    ];
    AllowList::compile(&calls.map(|number| Allow { number, conditions: Vec::new() }))?.install()
}

/// Answers requests until the sentry is gone.
fn serve(socket: BorrowedFd<'_>, scope: &Scope) -> io::Result<()> {
    let mut server = Server { scope, known: HashMap::new(), own: socket };
    while let Some((request, _)) = fdpass::receive(socket, ASKS + CHUNK)? {
        let mut answer = vec![0; ANSWERS];
        let file = match server.answer(&request, &mut answer) {
            Ok((value, file)) => {
                answer[8..ANSWERS].copy_from_slice(&value.to_ne_bytes());
                file
            }
            Err(error) => {
                let errno = i64::from(error.raw_os_error().unwrap_or(libc::EINVAL));
                answer.truncate(ANSWERS);
                answer[..8].copy_from_slice(&errno.to_ne_bytes());
                None
            }
        };
        let files: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
        fdpass::send(socket, &answer, &files)?;
    }
    Ok(())
}

/// What an inspector works on.
struct Server<'a> {
    scope: &'a Scope,
    /// Threads that may be looked into.
    known: HashMap<u32, OwnedFd>,
    own: BorrowedFd<'a>,
}

impl Server<'_> {
    fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> io::Result<(u64, Option<OwnedFd>)> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (words, data) = request.split_first_chunk::<ASKS>().ok_or_else(invalid)?;
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&words[index * 8..index * 8 + 8]);
            u64::from_ne_bytes(bytes)
        };
        let ask = Ask::ALL.into_iter().find(|ask| *ask as u64 == word(0)).ok_or_else(invalid)?;
        let tid = u32::try_from(word(1)).map_err(|_| invalid())?;
        let (what, len) = (word(2), usize::try_from(word(3)).map_err(|_| invalid())?);
        // Of a thread that is not in the scope any more, no more than that it is not.
        if ask == Ask::Network {
            return Ok((task::namespace(tid, "net")?, None));
        }
        if ask == Ask::IsAlive {
            let lives = self.known.get(&tid).is_some_and(task::lives);
            return Ok((u64::from(lives), None));
        }
        self.check(tid)?;
        let fd = || i32::try_from(what).map_err(|_| io::Error::from_raw_os_error(libc::EBADF));
        let value = match ask {
            Ask::Read => {
                answer.resize(ANSWERS + len.min(CHUNK), 0);
                let read = task::read_memory(tid, what, &mut answer[ANSWERS..])?;
                answer.truncate(ANSWERS + read);
                read as u64
            }
            Ask::Write => task::write_memory(tid, what, data)? as u64,
            Ask::Duplicate => {
                let pidfd = self.known.get(&tid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
                return Ok((0, Some(task::get_fd(pidfd, fd()?)?)));
            }
            Ask::Process => u64::from(task::process_of(tid)?),
            Ask::IsClosedOnExec => u64::from(task::is_closed_on_exec(tid, fd()?)),
            Ask::HasDescriptor => u64::from(task::has_descriptor(tid, fd()?)),
            Ask::IsSocket => u64::from(task::is_socket(tid, fd()?, self.own)),
            Ask::User => task::namespace(tid, "user")?,
            Ask::Capability => {
                u64::from(task::has_capability(tid, u8::try_from(what).map_err(|_| invalid())?))
            }
            Ask::Started => task::started(tid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?,
            Ask::Title => {
                let title = task::title(tid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
                answer.extend_from_slice(title.as_bytes());
                0
            }
            Ask::Network | Ask::IsAlive => return Err(invalid()),
        };
        Ok((value, None))
    }

    /// Sees to it that a thread is one of the containers': in a namespace of theirs, and watched by a filter.
    fn check(&mut self, tid: u32) -> io::Result<()> {
        if self.known.get(&tid).is_some_and(task::lives) {
            return Ok(());
        }
        self.known.remove(&tid);
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        // The descriptor first: what is looked at afterwards is this thread's, as long as it lives.
        let pidfd = task::open_thread(tid)?;
        let is_within = self.scope.has(tid)? && task::is_filtered(tid);
        if !is_within || !task::lives(&pidfd) {
            return Err(gone());
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(tid, pidfd);
        Ok(())
    }
}

/// The sentry's side of an inspector. An inspector that is gone is a thread that is gone: ESRCH.
#[derive(Debug)]
pub struct Inspector(OwnedFd);

impl Inspector {
    /// Takes the socket of [`start`].
    #[must_use]
    pub fn new(socket: OwnedFd) -> Inspector {
        Inspector(socket)
    }

    fn ask(&self, ask: Ask, tid: u32, what: u64, len: usize, data: &[u8]) -> io::Result<Answer> {
        let mut request = Vec::with_capacity(ASKS + data.len());
        for word in [ask as u64, u64::from(tid), what, len as u64] {
            request.extend_from_slice(&word.to_ne_bytes());
        }
        request.extend_from_slice(data);
        let gone = |_| io::Error::from_raw_os_error(libc::ESRCH);
        fdpass::send(self.0.as_fd(), &request, &[]).map_err(gone)?;
        let answer = fdpass::receive(self.0.as_fd(), ANSWERS + CHUNK).map_err(gone)?;
        let (bytes, mut files) = answer.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        let (head, data) = bytes.split_at_checked(ANSWERS).ok_or(io::ErrorKind::InvalidData)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        match word(0) {
            0 => Ok(Answer { value: word(8), data: data.to_vec(), file: files.pop() }),
            errno => Err(io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO))),
        }
    }

    pub(crate) fn read_memory(&self, tid: u32, address: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        for piece in buf.chunks_mut(CHUNK) {
            let at = address.wrapping_add(done as u64);
            let data = match self.ask(Ask::Read, tid, at, piece.len(), &[]) {
                Ok(answer) => answer.data,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            let got = data.len().min(piece.len());
            piece[..got].copy_from_slice(&data[..got]);
            done += got;
            if got < piece.len() {
                break;
            }
        }
        Ok(done)
    }

    pub(crate) fn write_memory(&self, tid: u32, address: u64, data: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        for piece in data.chunks(CHUNK) {
            let at = address.wrapping_add(done as u64);
            let put = match self.ask(Ask::Write, tid, at, piece.len(), piece) {
                Ok(answer) => usize::try_from(answer.value).unwrap_or(0).min(piece.len()),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            done += put;
            if put < piece.len() {
                break;
            }
        }
        Ok(done)
    }

    pub(crate) fn duplicate(&self, tid: u32, fd: i32) -> io::Result<OwnedFd> {
        let number = u64::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        let file = self.ask(Ask::Duplicate, tid, number, 0, &[])?.file;
        file.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    pub(crate) fn process(&self, tid: u32) -> io::Result<u32> {
        let process = self.ask(Ask::Process, tid, 0, 0, &[])?.value;
        u32::try_from(process).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(crate) fn namespace(&self, tid: u32, kind: &str) -> io::Result<u64> {
        let ask = if kind == "net" { Ask::Network } else { Ask::User };
        Ok(self.ask(ask, tid, 0, 0, &[])?.value)
    }

    pub(crate) fn is_alive(&self, tid: u32) -> bool {
        self.holds(Ask::IsAlive, tid, 0)
    }

    pub(crate) fn is_closed_on_exec(&self, tid: u32, fd: i32) -> bool {
        self.holds_of(Ask::IsClosedOnExec, tid, fd)
    }

    pub(crate) fn has_descriptor(&self, tid: u32, fd: i32) -> bool {
        self.holds_of(Ask::HasDescriptor, tid, fd)
    }

    pub(crate) fn is_socket(&self, tid: u32, fd: i32) -> bool {
        self.holds_of(Ask::IsSocket, tid, fd)
    }

    pub(crate) fn has_capability(&self, tid: u32, number: u8) -> bool {
        self.holds(Ask::Capability, tid, number.into())
    }

    pub(crate) fn started(&self, tid: u32) -> Option<u64> {
        self.ask(Ask::Started, tid, 0, 0, &[]).ok().map(|answer| answer.value)
    }

    pub(crate) fn title(&self, tid: u32) -> Option<String> {
        let answer = self.ask(Ask::Title, tid, 0, 0, &[]).ok()?;
        String::from_utf8(answer.data).ok()
    }

    fn holds_of(&self, ask: Ask, tid: u32, fd: i32) -> bool {
        u64::try_from(fd).is_ok_and(|fd| self.holds(ask, tid, fd))
    }

    fn holds(&self, ask: Ask, tid: u32, what: u64) -> bool {
        self.ask(ask, tid, what, 0, &[]).is_ok_and(|answer| answer.value != 0)
    }
}

/// What an inspector has answered.
struct Answer {
    value: u64,
    data: Vec<u8>,
    file: Option<OwnedFd>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Change, Wait};
    use crate::unix;

    /// A child under a filter, with what it has in its memory and its first pipe.
    fn with_child(test: impl FnOnce(u32, u64, i32)) {
        static SECRET: [u8; 6] = *b"inside";
        let (reader, mut writer) = io::pipe().unwrap();
        let (mut told, tells) = io::pipe().unwrap();
        let child = process::fork(|| {
            use std::io::{Read, Write};
            let filter = AllowList::compile_refusing(&[
                Allow { number: libc::SYS_read, conditions: Vec::new() },
                Allow { number: libc::SYS_write, conditions: Vec::new() },
                Allow { number: libc::SYS_exit_group, conditions: Vec::new() },
            ]);
            if filter.and_then(|filter| filter.install()).is_err() {
                return 1;
            }
            let _ = (&tells).write_all(&[1]);
            let mut one = [0];
            let _ = (&reader).read(&mut one);
            i32::from(one[0])
        })
        .unwrap();
        use std::io::{Read, Write};
        told.read_exact(&mut [0]).unwrap();
        test(child.unsigned_abs(), SECRET.as_ptr() as u64, reader.as_raw_fd());
        writer.write_all(&[7]).unwrap();
        assert_eq!(process::wait(child, Wait::Block).unwrap(), Some(Change::Exited(7)));
    }

    #[test]
    fn an_inspector_looks_into_filtered_threads_of_its_network() {
        let scope = Scope::new().unwrap();
        let inspector = Inspector::new(start(&scope).unwrap());
        // Who has no such capability to keep has no inspector.
        if !capability::has(Capability::SYS_PTRACE).unwrap() {
            scope.set(task::own_namespace("net").unwrap());
            let none = inspector.process(std::process::id()).unwrap_err();
            return assert_eq!(none.raw_os_error(), Some(libc::ESRCH));
        }
        with_child(|child, secret, fd| {
            let mut text = [0; 6];
            let refused = inspector.read_memory(child, secret, &mut text).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ESRCH), "no network is in scope yet");
            scope.set(task::own_namespace("net").unwrap());
            assert_eq!(inspector.read_memory(child, secret, &mut text).unwrap(), 6);
            assert_eq!(&text, b"inside");
            let pipe = inspector.duplicate(child, fd).unwrap();
            assert!(!unix::readable(pipe.as_fd()).unwrap());
            assert_eq!(inspector.duplicate(child, 500).unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert!(inspector.is_alive(child) && inspector.has_descriptor(child, fd));
            assert!(inspector.is_closed_on_exec(child, fd) && !inspector.is_socket(child, fd));
            assert_eq!(inspector.process(child).unwrap(), child);
            assert!(inspector.title(child).is_some() && inspector.started(child).is_some());
            // This process has no filter: it is none of the containers'.
            let own = inspector.read_memory(std::process::id(), secret, &mut text).unwrap_err();
            assert_eq!(own.raw_os_error(), Some(libc::ESRCH));
        });
    }
}
