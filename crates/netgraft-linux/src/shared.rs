//! A few words of memory that forked processes share.

use std::io;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::result::check;

/// A page of counters, shared with every process that is forked later (mmap(2), `MAP_SHARED`); all are zero at
/// first. What another process wrote is untrusted like anything else that it sends.
#[derive(Debug)]
pub struct Words {
    at: NonNull<AtomicU64>,
}

// SAFETY: the page holds atomics only, which any thread may use at any time, and belongs to no thread.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// How many words there are.
    pub const COUNT: usize = 512;
    const SIZE: usize = Self::COUNT * size_of::<AtomicU64>();

    /// Maps a page.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> io::Result<Words> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: without an address and MAP_FIXED the kernel chooses a place where nothing is.
        let at = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, access, kind, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(at.cast()) {
            Some(at) => Ok(Words { at }),
            None => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        }
    }

    /// One of the words.
    ///
    /// # Panics
    /// For an index from [`Words::COUNT`] on, as an array does.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < Self::COUNT, "a word of {}", Self::COUNT);
        // SAFETY: the index lies within the page, which stays mapped while `self` lives, is aligned, was zeroed by
        // the kernel and is only used as atomics, here and in the processes that share it.
        unsafe { self.at.add(index).as_ref() }
    }
}

/// Which call is under way, noted in one of the [`Words`] for whoever looks from another process. One thread writes to
/// it: each note is a plain store.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a>(&'a AtomicU64);

/// What is noted of calls at a moment. Differs from every other moment at which another call, or none, was under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse(u64);

impl Words {
    /// The calls that are noted in a word, which is used for nothing else.
    ///
    /// # Panics
    /// As [`Words::word`].
    #[must_use]
    pub fn calls(&self, index: usize) -> Calls<'_> {
        Calls(self.word(index))
    }
}

impl Calls<'_> {
    /// A call begins; its number is not 0.
    pub fn begin(self, number: u8) {
        let number = u64::from(number);
        let word = (self.0.load(Ordering::Relaxed) | 0xffff).wrapping_add(1) | number << 8 | number;
        self.0.store(word, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn end(self) {
        self.0.store(self.0.load(Ordering::Relaxed) & !0xff, Ordering::Relaxed);
    }

    /// What is noted now.
    #[must_use]
    pub fn pulse(self) -> Pulse {
        Pulse(self.0.load(Ordering::Relaxed))
    }

    /// Forgets which call was the last, and that it goes on: its process is gone.
    pub fn forget(self) {
        self.0.store(self.0.load(Ordering::Relaxed) & !0xffff, Ordering::Relaxed);
    }
}

impl Pulse {
    /// The number of the call that was under way, if one was.
    #[must_use]
    pub const fn current(self) -> Option<u8> {
        Self::number(self.0)
    }

    /// The number of the last call, under way or not.
    #[must_use]
    pub const fn last(self) -> Option<u8> {
        Self::number(self.0 >> 8)
    }

    /// How many calls there were.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0 >> 16
    }

    const fn number(word: u64) -> Option<u8> {
        match (word & 0xff) as u8 {
            0 => None,
            number => Some(number),
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), Self::SIZE) };
    }
}

/// Makes signals that end a process which goes wrong leave a note of it. A SIGSYS of a forbidden system call
/// (`SECCOMP_RET_TRAP`, seccomp(2)) writes the call's number, plus one, to the word `refused`; that and SIGABRT,
/// SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP write to the word `thread` what [`Thread::from_word`] reads. The process
/// ends by the same signal all the same.
///
/// The kernel refuses a call before; the handler only gives it a name. It cannot be kept from ending the process: all
/// signals are blocked while it runs, a second forbidden call meets the default action, and an allow-list that goes with
/// it must not allow rt_sigaction(2) of SIGSYS. The page stays mapped for good.
///
/// # Errors
/// As sigaction(2).
pub fn report_ends(words: &'static Words, refused: usize, thread: usize) -> io::Result<()> {
    for (place, index) in [(&REFUSED_AT, refused), (&THREAD_AT, thread)] {
        place.store(ptr::from_ref(words.word(index)).cast_mut(), Ordering::Release);
    }
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    let install = |signal: i32, handler: Handler| {
        // SAFETY: the structure is plain data, for which zero is valid.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as usize;
        // A stack that overflowed needs the other one, if the thread has it.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_ONSTACK;
        // SAFETY: the mask is writable; the handler is async-signal-safe and of the type that SA_SIGINFO asks for.
        check(unsafe {
            libc::sigfillset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        })
        .map(drop)
    };
    install(libc::SIGSYS, violated)?;
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
    [SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP]
        .into_iter()
        .try_for_each(|signal| install(signal, fatal))
}

/// The thread in which a process met its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Its first.
    Main,
    /// Another: its id, as the process itself sees it (gettid(2)).
    Other(i32),
}

impl Thread {
    /// What [`report_ends`] noted; `None` for zero, which is nothing.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Thread> {
        match (word, word >> 1) {
            (0, _) => None,
            (_, 0) => Some(Thread::Main),
            (_, id) => Some(Thread::Other((id & 0x7fff_ffff) as i32)),
        }
    }
}

static REFUSED_AT: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static THREAD_AT: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// `SYS_SECCOMP`, the `si_code` of a system call that a filter refused.
const REFUSED: i32 = 1;
/// Where `siginfo_t` has the number of a refused call on 64-bit Linux: behind three ints, padding and a pointer.
const NUMBER_AT: usize = 24;
/// A system call that does not exist and that no allow-list names.
const FORBIDDEN: libc::c_long = 0x3fff_fff0;

fn note(place: &AtomicPtr<AtomicU64>, value: u64) {
    // SAFETY: null, or a word of a page that stays mapped for good (`report_ends` takes it as 'static).
    if let Some(word) = unsafe { place.load(Ordering::Acquire).as_ref() } {
        word.store(value, Ordering::Release);
    }
}

/// The id of the calling thread (gettid(2)).
#[must_use]
pub fn thread_id() -> i32 {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::gettid() }
}

fn note_thread() {
    // SAFETY: no arguments, and it cannot fail.
    let process = unsafe { libc::getpid() };
    let thread = thread_id();
    note(&THREAD_AT, if process == thread { 1 } else { u64::from(thread.unsigned_abs()) << 1 });
}

extern "C" fn fatal(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    note_thread();
    // The instruction that faulted does so again, and then the default action is in force. A signal that was sent does
    // not come again by itself, nor does a breakpoint, which is behind it; this one waits until the handler has returned.
    // SAFETY: the kernel passes a valid structure; raise(3) is async-signal-safe.
    unsafe {
        if (*info).si_code <= 0 || signal == libc::SIGTRAP {
            libc::raise(signal);
        }
    }
}

extern "C" fn violated(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure; for this code it has an int at this place, within its 128 bytes.
    let refused =
        unsafe { ((*info).si_code == REFUSED).then(|| *info.cast::<u8>().add(NUMBER_AT).cast::<i32>()) };
    if let Some(number) = refused {
        note(&REFUSED_AT, u64::from(number.unsigned_abs()) + 1);
        note_thread();
    }
    // SAFETY: the call has no arguments; its filter kills the process, since SIGSYS has its default action again.
    unsafe { libc::syscall(FORBIDDEN) };
    // Sent by a process and not by a filter, or there is no filter: the process ends all the same.
    crate::process::exit_now(128 + libc::SIGSYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::{Allow, AllowList};
    use crate::process::{Change, Wait, exit_now, fork, wait};

    #[test]
    fn a_forked_process_writes_what_its_parent_reads() {
        let words = Words::new().unwrap();
        let child = fork(|| {
            words.word(Words::COUNT - 1).store(7, Ordering::Relaxed);
            0
        });
        wait(child.unwrap(), Wait::Block).unwrap();
        assert_eq!(words.word(Words::COUNT - 1).load(Ordering::Relaxed), 7);
        assert_eq!(words.word(0).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_pulse_names_the_call_and_differs_from_the_one_before() {
        let words = Words::new().unwrap();
        let calls = words.calls(3);
        assert_eq!((calls.pulse(), calls.pulse().current()), (Pulse::default(), None));
        calls.begin(7);
        let first = calls.pulse();
        assert_eq!((first.current(), first.last(), first.count()), (Some(7), Some(7), 1));
        calls.end();
        assert_eq!((calls.pulse().current(), calls.pulse().last()), (None, Some(7)));
        calls.begin(7);
        assert_ne!(calls.pulse(), first);
        assert_eq!(calls.pulse().count(), 2);
        calls.forget();
        assert_eq!((calls.pulse().last(), calls.pulse().count()), (None, 2));
        assert_eq!(words.word(2).load(Ordering::Relaxed) + words.word(4).load(Ordering::Relaxed), 0);
    }

    fn violate(body: impl FnOnce()) -> (Option<Change>, u64) {
        let words: &'static Words = Box::leak(Box::new(Words::new().unwrap()));
        let mut rules = vec![Allow { number: libc::SYS_exit_group, conditions: Vec::new() }];
        rules.extend(signal_rules());
        let list = AllowList::compile_with_names(&rules).unwrap();
        let child = fork(|| {
            if report_ends(words, 3, 4).is_err() || list.install().is_err() {
                return 99;
            }
            body();
            exit_now(5)
        });
        (wait(child.unwrap(), Wait::Block).unwrap(), words.word(3).load(Ordering::Acquire))
    }

    fn signal_rules() -> Vec<Allow> {
        [libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn]
            .into_iter()
            .map(|number| Allow { number, conditions: Vec::new() })
            .collect()
    }

    #[test]
    fn a_forbidden_call_is_named_and_kills() {
        let end = violate(|| {
            // SAFETY: getppid has no arguments and cannot fail.
            unsafe { libc::getppid() };
        });
        assert_eq!(end, (Some(Change::Signaled(libc::SIGSYS)), libc::SYS_getppid as u64 + 1));
        assert_eq!(violate(|| {}).0, Some(Change::Exited(5)));
    }

    #[test]
    fn the_thread_that_ended_the_process_is_told() {
        let end = |body: fn()| {
            let words: &'static Words = Box::leak(Box::new(Words::new().unwrap()));
            let child = fork(|| {
                let _ = crate::confine::no_core_file();
                if report_ends(words, 3, 4).is_err() {
                    return 99;
                }
                body();
                0
            });
            let change = wait(child.unwrap(), Wait::Block).unwrap();
            (change, Thread::from_word(words.word(4).load(Ordering::Acquire)))
        };
        let abort = Some(Change::Signaled(libc::SIGABRT));
        assert_eq!(end(|| std::process::abort()), (abort, Some(Thread::Main)));
        let other = end(|| drop(std::thread::spawn(|| std::process::abort()).join()));
        assert!(matches!(other, (end, Some(Thread::Other(_))) if end == abort), "{other:?}");
        let trap = end(|| {
            // SAFETY: a trap, which the handler of this process notes.
            let _ = unsafe { libc::raise(libc::SIGTRAP) };
        });
        assert_eq!(trap, (Some(Change::Signaled(libc::SIGTRAP)), Some(Thread::Main)));
        let fault = end(|| {
            // SAFETY: meant to be refused by the kernel: nothing is mapped there.
            let _ = std::hint::black_box(unsafe { std::hint::black_box(8 as *const u8).read_volatile() });
        });
        assert_eq!(fault, (Some(Change::Signaled(libc::SIGSEGV)), Some(Thread::Main)));
        assert_eq!(end(|| {}), (Some(Change::Exited(0)), None));
    }

    #[test]
    fn a_blocked_sigsys_kills_all_the_same() {
        let end = violate(|| {
            let _ = crate::signal::Signals::only(libc::SIGSYS).block_exactly();
            // SAFETY: getppid has no arguments and cannot fail.
            unsafe { libc::getppid() };
        });
        assert_eq!(end, (Some(Change::Signaled(libc::SIGSYS)), 0));
    }
}
