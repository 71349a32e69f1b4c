//! The host system calls that a stack needs in the sentry.

/// One rule of the sentry's allow-list (seccomp(2)).
///
/// The sentry allows few system calls. A stack adds what it needs with
/// [`crate::PluginStack::seccomp_filters`]; what is wider than the base is reported to the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SyscallRule {
    /// The system call's number on this architecture, such as `libc::SYS_socket`.
    pub number: i64,
    /// Conditions that must all hold; none allows the call with any argument.
    pub conditions: Vec<ArgCondition>,
}

impl SyscallRule {
    /// Allows the call with any arguments.
    #[must_use]
    pub const fn any(number: i64) -> Self {
        SyscallRule { number, conditions: Vec::new() }
    }

    /// Allows the call if argument `index` (0 to 5), masked, equals `value`.
    #[must_use]
    pub fn masked(number: i64, index: u8, mask: u64, value: u64) -> Self {
        SyscallRule { number, conditions: vec![ArgCondition { index, mask, value }] }
    }

    /// Adds a condition.
    #[must_use]
    pub fn and(mut self, index: u8, mask: u64, value: u64) -> Self {
        self.conditions.push(ArgCondition { index, mask, value });
        self
    }
}

/// `argument[index] & mask == value`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArgCondition {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// The bits that are looked at.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}
