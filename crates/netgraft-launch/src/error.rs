//! Why a sandbox could not be run, each in one line that says what and what to do.

use std::ffi::OsString;
use std::io;

use netgraft_linux::confine::Missing;
use netgraft_linux::process;
use netgraft_plugin::registry::RegistryError;
use netgraft_plugin::stack::SetupError;

use crate::report::Step;

/// Exit status for netgraft's own failures.
pub const EXIT_FAILURE: u8 = 125;
/// Exit status when the program cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit status when the program does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Why a sandbox was not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The options do not go together.
    #[error("{0}")]
    Options(String),
    /// The stack's name is unknown.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The shared object cannot be used; the text is its own.
    #[error(transparent)]
    Object(#[from] netgraft_abi::LoadError),
    /// The stack could not be set up; the text is its own.
    #[error(transparent)]
    Stack(#[from] SetupError),
    /// The sentry could not be set up or gave up; the text is its own.
    #[error("{0}")]
    Sentry(String),
    /// The host refused a step of the sandbox's making.
    #[error("{}", step_text(*.step, .source, .hint))]
    Step {
        /// What was done.
        step: Step,
        /// What the host said.
        source: io::Error,
        /// What to do about it, as the host's settings were then.
        hint: String,
    },
    /// The kernel lacks what the system call listener needs.
    #[error("{}", missing_text(*.0))]
    Kernel(Missing),
    /// The sentry ended before the program was started; the text says how.
    #[error("{0}; the program was not started")]
    SentryDied(String),
    /// A signal came before the program was started.
    #[error("signal {0} came before the program was started")]
    Interrupted(i32),
    /// The program does not exist.
    #[error("{}: no such program: check its name and PATH", .0.display())]
    NotFound(OsString),
    /// The program exists and cannot be executed.
    #[error("{}: cannot be executed: {source}{hint}", .program.display())]
    NotExecutable {
        /// Its name.
        program: OsString,
        /// What may be the reason, beyond what execve(2) says.
        hint: &'static str,
        /// What execve(2) said.
        source: io::Error,
    },
}

impl RunError {
    /// The error of a step that the host refused. Looks at the host's settings for what to do about it.
    #[must_use]
    pub fn step(step: Step, source: io::Error) -> RunError {
        let hint = step_hint(step, &source, &sysctl);
        RunError::Step { step, source, hint }
    }

    /// The exit status that tells a shell the same.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            RunError::NotFound(_) => EXIT_NOT_FOUND,
            RunError::NotExecutable { .. } => EXIT_NOT_EXECUTABLE,
            RunError::Interrupted(signal) => signal_status(*signal),
            _ => EXIT_FAILURE,
        }
    }

    /// What execve(2) said, as the error that the caller sees.
    pub(crate) fn exec(program: OsString, errno: i32) -> RunError {
        match errno {
            libc::ENOENT | libc::ENOTDIR => RunError::NotFound(program),
            _ => {
                let is_roots = errno == libc::EACCES && process::ids().0 == 0;
                let hint = if is_roots {
                    "; root's program is nobody on the host, unless --host-ids is given"
                } else {
                    ""
                };
                RunError::NotExecutable { program, hint, source: io::Error::from_raw_os_error(errno) }
            }
        }
    }
}

/// The status that a shell gives a program which a signal ended.
pub(crate) fn signal_status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

fn missing_text(missing: Missing) -> String {
    match missing {
        Missing::Filters => {
            "this kernel has no system call filters (seccomp), or they are blocked here: use a \
             kernel with CONFIG_SECCOMP_FILTER=y, or allow seccomp(2) in the container that runs netgraft"
                .to_owned()
        }
        Missing::Listener => "this kernel has no system call listener (seccomp user notification): netgraft \
             needs Linux 5.19 or later with CONFIG_SECCOMP_FILTER=y"
            .to_owned(),
        Missing::Request(name) => {
            format!("this kernel's system call listener lacks {name}: netgraft needs Linux 5.19 or later")
        }
        Missing::Call(name) => {
            let option =
                if name.starts_with("process_vm") { " with CONFIG_CROSS_MEMORY_ATTACH=y" } else { "" };
            format!(
                "this kernel lacks {name}(2), or it is blocked here: netgraft needs Linux 5.19 or later{option}, and \
                 in a container the permission to make this call"
            )
        }
    }
}

fn step_text(step: Step, error: &io::Error, hint: &str) -> String {
    match (step, error.raw_os_error()) {
        (Step::Filter, Some(libc::EBUSY)) => {
            "netgraft already runs inside a sandbox with a system call listener, and the kernel allows one only: \
             start it outside of that sandbox"
                .to_owned()
        }
        _ => format!("cannot {}: {error}{hint}", step.text()),
    }
}

/// What a setting of the host is ([`sysctl`]).
type Settings<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What to do where a filter cannot be installed.
pub(crate) fn filter_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS) => {
            "; netgraft needs Linux 5.19 or later with CONFIG_SECCOMP_FILTER=y"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "; if this is a container, its configuration must allow seccomp(2)"
        }
        _ => "",
    }
}

fn step_hint(step: Step, error: &io::Error, settings: Settings<'_>) -> String {
    match (step, error.raw_os_error()) {
        (Step::UserNamespace, Some(errno)) => user_namespace_hint(errno, settings),
        (Step::Filter, Some(_)) => filter_hint(error).to_owned(),
        (_, Some(libc::EPERM | libc::EACCES)) => restricted_hint(settings),
        (_, Some(libc::ENOSPC)) => {
            "; a limit is reached: raise the values in /proc/sys/user/max_*_namespaces".to_owned()
        }
        (_, Some(libc::EMFILE)) => "; raise the limit of open files (ulimit -n)".to_owned(),
        _ => String::new(),
    }
}

/// Reads a sysctl; `None` if this kernel has none of that name.
fn sysctl(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

fn user_namespace_hint(errno: i32, settings: Settings<'_>) -> String {
    let is = |name: &str, value: &str| settings(name).as_deref() == Some(value);
    match errno {
        libc::ENOSPC if is("user/max_user_namespaces", "0") => {
            "; user namespaces are turned off: sysctl user.max_user_namespaces=15000 turns them on".to_owned()
        }
        libc::ENOSPC | libc::EUSERS => {
            "; too many user namespaces, or too many in each other: see sysctl user.max_user_namespaces"
                .to_owned()
        }
        libc::EPERM if is("kernel/unprivileged_userns_clone", "0") => {
            "; ordinary users may not make user namespaces here: sysctl kernel.unprivileged_userns_clone=1 \
             allows it, or run netgraft as root"
                .to_owned()
        }
        libc::EINVAL | libc::ENOSYS => {
            "; this kernel has no user namespaces: CONFIG_USER_NS=y is needed".to_owned()
        }
        _ => restricted_hint(settings),
    }
}

fn restricted_hint(settings: Settings<'_>) -> String {
    if settings("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        "; AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 lifts \
         that, or give netgraft a profile with 'userns,'"
            .to_owned()
    } else {
        "; if this is a container or a chroot, its configuration must allow user namespaces".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: Step, errno: i32) -> String {
        RunError::step(step, io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn exit_statuses_are_those_of_a_shell() {
        let exec = |errno| RunError::exec("p".into(), errno).exit_status();
        assert_eq!(exec(libc::ENOENT), 127);
        assert_eq!(exec(libc::ENOTDIR), 127);
        assert_eq!(exec(libc::EACCES), 126);
        assert_eq!(exec(libc::ENOEXEC), 126);
        assert_eq!(RunError::Options("x".into()).exit_status(), 125);
        assert_eq!(RunError::SentryDied("it".into()).exit_status(), 125);
        assert_eq!(RunError::Interrupted(2).exit_status(), 130);
    }

    #[test]
    fn the_host_s_settings_decide_what_to_do() {
        let hint = |errno, name: &'static str, value: &str| {
            let settings = move |asked: &str| (asked == name).then(|| value.to_owned());
            step_hint(Step::UserNamespace, &io::Error::from_raw_os_error(errno), &settings)
        };
        let limit = "user/max_user_namespaces";
        assert!(hint(libc::ENOSPC, limit, "0").contains("sysctl user.max_user_namespaces=15000"));
        assert!(hint(libc::ENOSPC, limit, "9").contains("too many user namespaces"));
        let clone = "kernel/unprivileged_userns_clone";
        assert!(hint(libc::EPERM, clone, "0").contains("sysctl kernel.unprivileged_userns_clone=1"));
        assert!(hint(libc::EPERM, clone, "1").contains("container"));
        let armor = "kernel/apparmor_restrict_unprivileged_userns";
        assert!(hint(libc::EPERM, armor, "1").contains("AppArmor"));
    }

    #[test]
    fn each_text_is_one_line_that_says_what_to_do() {
        let texts = [
            step(Step::Filter, libc::EBUSY),
            step(Step::UserNamespace, libc::EPERM),
            step(Step::UserNamespace, libc::EINVAL),
            step(Step::ProgramNamespaces, libc::ENOSPC),
            step(Step::Filter, libc::EINVAL),
            step(Step::Filter, libc::EACCES),
            missing_text(Missing::Filters),
            missing_text(Missing::Listener),
            missing_text(Missing::Request("SECCOMP_IOCTL_NOTIF_ADDFD")),
            missing_text(Missing::Call("pidfd_open")),
            RunError::SentryDied("it died".into()).to_string(),
        ];
        for text in &texts {
            assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        }
        assert!(texts[0].contains("outside"));
        assert!(texts[2].contains("CONFIG_USER_NS"));
        assert!(texts[3].contains("max_*_namespaces"));
        assert!(texts[4].contains("CONFIG_SECCOMP_FILTER") && texts[5].contains("allow seccomp"));
        assert!(
            texts[6..10]
                .iter()
                .all(|text| text.contains("needs Linux 5.19") || text.contains("use a kernel"))
        );
        assert!(texts[10].contains("not started"));
    }
}
