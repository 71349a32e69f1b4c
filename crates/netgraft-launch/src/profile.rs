//! Which system calls a program may make at all: profiles in the form that OCI runtimes read ("linux.seccomp" of the runtime
//! specification, as Docker's and Podman's files have it).
//!
//! The program's own filter with its listener does not depend on this: a profile only takes away.

use netgraft_linux::confine::{Allow, CallFilter};
use netgraft_linux::syscall;
use serde::{Deserialize, Serialize};

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS", alias = "SCMP_ACT_KILL")]
    Kill,
}

/// System calls, and what becomes of them if all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Op {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// `argument & value == value_two`
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What no program needs that is to be contained: other file systems, namespaces of others, keys, code in the kernel, other
/// processes' memory, the machine.
const REFUSED: &[&str] = &[
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "setns",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "open_by_handle_at",
    "acct",
    "swapon",
    "swapoff",
    "reboot",
    "settimeofday",
    "clock_settime",
    "quotactl",
    "vhangup",
    "syslog",
    "fanotify_init",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "iopl",
    "ioperm",
];

impl Profile {
    /// What a contained program is refused with EPERM: mounts, keys, eBPF, performance events, modules, other processes'
    /// memory and, unless they are allowed here, new user namespaces.
    #[must_use]
    pub fn contained(user_namespaces: bool) -> Profile {
        let known = |name: &&&str| syscall::number(name).is_some();
        let rule = |names: &[&str], args: Vec<Condition>, errno_ret| Rule {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            action: Action::Errno,
            errno_ret,
            args,
        };
        let refused: Vec<&str> = REFUSED.iter().filter(known).copied().collect();
        let mut syscalls = vec![rule(&refused, Vec::new(), None)];
        for request in [libc::PTRACE_ATTACH as u64, libc::PTRACE_SEIZE as u64] {
            let other = Condition { index: 0, value: request, value_two: 0, op: Op::Equal };
            syscalls.push(rule(&["ptrace"], vec![other], None));
        }
        if !user_namespaces {
            let flag = libc::CLONE_NEWUSER as u64;
            let new_user = Condition { index: 0, value: flag, value_two: flag, op: Op::MaskedEqual };
            syscalls.push(rule(&["clone", "unshare"], vec![new_user], None));
            // Its flags are in memory, where no filter looks: the C library then makes its threads with clone.
            syscalls.push(rule(&["clone3"], Vec::new(), Some(libc::ENOSYS as u16)));
        }
        Profile { default_action: Action::Allow, default_errno_ret: None, syscalls }
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        // A profile that cannot be compiled is an error now, and not when the program starts.
        profile.filters().map(|_| profile.clone())
    }

    /// The profile as a file has it.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The filters that it means, one for each of its actions.
    pub(super) fn filters(&self) -> Result<Vec<CallFilter>, String> {
        let mut filters = Vec::new();
        let default = (self.default_action, self.default_errno_ret);
        let of = |rule: &Rule| (rule.action, rule.errno_ret);
        let mut actions: Vec<(Action, Option<u16>)> = Vec::new();
        for rule in self.syscalls.iter().filter(|rule| of(rule) != default) {
            if !actions.contains(&of(rule)) {
                actions.push(of(rule));
            }
        }
        if self.default_action != Action::Allow && actions.iter().any(|(action, _)| *action != Action::Allow)
        {
            return Err("a profile that refuses by default may only allow in its rules".to_owned());
        }
        if self.default_action != Action::Allow && actions.is_empty() {
            return Err("it allows nothing".to_owned());
        }
        for action in actions {
            let rules = self.rules_of(action)?;
            filters.push(
                CallFilter::compile(&rules, compiled(action), compiled(default))
                    .map_err(|e| e.to_string())?,
            );
        }
        Ok(filters)
    }

    fn rules_of(&self, action: (Action, Option<u16>)) -> Result<Vec<Allow>, String> {
        let mut rules = Vec::new();
        for rule in self.syscalls.iter().filter(|rule| (rule.action, rule.errno_ret) == action) {
            let conditions: Vec<(u8, u64, u64)> = rule
                .args
                .iter()
                .map(|c| match c.op {
                    Op::Equal => (c.index, u64::MAX, c.value),
                    Op::MaskedEqual => (c.index, c.value, c.value_two),
                })
                .collect();
            for name in &rule.names {
                // Files for many kernels and machines name calls that this one has not.
                if let Some(number) = syscall::number(name) {
                    rules.push(Allow { number, conditions: conditions.clone() });
                }
            }
        }
        if rules.is_empty() {
            Err("its rules name no system call of this machine".to_owned())
        } else {
            Ok(rules)
        }
    }
}

fn compiled((action, errno): (Action, Option<u16>)) -> netgraft_linux::confine::Action {
    use netgraft_linux::confine::Action as To;
    match action {
        Action::Allow => To::Allow,
        Action::Errno => To::Errno(errno.map_or(libc::EPERM, i32::from)),
        Action::Kill => To::Kill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        for allowed in [false, true] {
            let profile = Profile::contained(allowed);
            assert_eq!(Profile::parse(&profile.text()).unwrap(), profile);
            assert_eq!(profile.text().contains("unshare"), !allowed);
        }
        let missing: Vec<_> = REFUSED.iter().filter(|name| syscall::number(name).is_none()).collect();
        let of_x86 = ["iopl", "ioperm"];
        assert!(
            missing.iter().all(|name| of_x86.contains(name) && !cfg!(target_arch = "x86_64")),
            "{missing:?}"
        );
    }

    #[test]
    fn profiles_that_mean_nothing_are_told() {
        let refused = |text: &str| Profile::parse(text).unwrap_err();
        assert!(refused("{}").contains("defaultAction"));
        assert!(refused(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#).contains("allows nothing"));
        let mixed =
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL"}]}"#;
        assert!(refused(mixed).contains("may only allow"));
        let unknown = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["nosuch"],"action":"SCMP_ACT_ERRNO"}]}"#;
        assert!(refused(unknown).contains("no system call"));
        let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert!(Profile::parse(index).is_err());
        assert_eq!(
            Profile::parse(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap().filters().unwrap().len(),
            0
        );
    }
}
