//! The filter of [`crate::filter`] as a table: for who installs it by other means than ours, such as an OCI runtime, which
//! compiles rules that it reads from a file.

use crate::filter::{Rule, Sockets, rules};
use crate::unix;

/// What a filter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel makes the call.
    Allow,
    /// The sentry answers it.
    Notify,
    /// It fails with this errno.
    Errno(i32),
}

/// A condition on an argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `argument & mask == value`
    Bits {
        /// Which bits are looked at.
        mask: u64,
        /// What they are.
        value: u64,
    },
    /// It is not 0.
    NotZero,
}

impl Condition {
    /// Whether an argument meets it.
    #[must_use]
    pub const fn holds(self, argument: u64) -> bool {
        match self {
            Condition::Bits { mask, value } => argument & mask == value,
            Condition::NotZero => argument != 0,
        }
    }
}

/// Calls of one number that are treated alike: those whose arguments meet all conditions, at most one for each argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Index of the argument, and what it is.
    pub conditions: Vec<(u8, Condition)>,
    /// What becomes of such a call.
    pub verdict: Verdict,
}

/// What the kernel reads of an int.
const INT: u64 = 0xffff_ffff;
/// Address families that there are (`AF_MAX`): the kernel knows no others.
const FAMILIES: i32 = 46;

/// The table of a filter: each system call that is not simply allowed, with cells of which no two hold for one call, and one
/// of which holds for every call that the kernel would not refuse itself.
#[must_use]
pub fn table(sockets: Sockets) -> Vec<(i64, Vec<Cell>)> {
    let rules = rules(sockets, unix::can_refuse_rights());
    rules.into_iter().map(|(number, rule)| (number, cells(rule))).collect()
}

const fn int(value: u32) -> Condition {
    Condition::Bits { mask: INT, value: value as u64 }
}

fn cell(conditions: &[(u8, Condition)], verdict: Verdict) -> Cell {
    Cell { conditions: conditions.to_vec(), verdict }
}

/// One cell for each of the bits, the lowest that is set, and at the end one for none of them.
fn lowest_of(bits: u32) -> Vec<Condition> {
    let mut below = 0;
    let mut found = Vec::new();
    for bit in (0..32).map(|shift| 1_u64 << shift).filter(|bit| u64::from(bits) & bit != 0) {
        below |= bit;
        found.push(Condition::Bits { mask: below, value: bit });
    }
    found.push(Condition::Bits { mask: below, value: 0 });
    found
}

/// Disjoint conditions that hold for the ints for which none of these does.
fn none_of(others: &[Condition]) -> Vec<Condition> {
    fn divide(others: &[(u64, u64)], mask: u64, value: u64, found: &mut Vec<Condition>) {
        let touching: Vec<_> = others.iter().copied().filter(|(m, v)| (v ^ value) & m & mask == 0).collect();
        if touching.is_empty() {
            return found.push(Condition::Bits { mask, value });
        }
        // One that says nothing beyond this is all of it.
        if touching.iter().any(|(m, _)| m & !mask == 0) {
            return;
        }
        let open = touching.iter().fold(0, |bits, (m, _)| bits | m) & !mask;
        let bit = 1_u64 << (63 - open.leading_zeros());
        for side in [0, bit] {
            divide(&touching, mask | bit, value | side, found);
        }
    }
    let bits = |condition: &Condition| match *condition {
        Condition::Bits { mask, value } => Some((mask & INT, value & INT)),
        Condition::NotZero => None,
    };
    let others: Vec<_> = others.iter().filter_map(bits).collect();
    let mut found = Vec::new();
    divide(&others, 0, 0, &mut found);
    found
}

fn families(trapped: &[i32], allowed: &[i32]) -> Vec<Cell> {
    let verdict = |family| match (trapped.contains(&family), allowed.contains(&family)) {
        (true, _) => Verdict::Notify,
        (_, true) => Verdict::Allow,
        _ => Verdict::Errno(libc::EAFNOSUPPORT),
    };
    (0..FAMILIES).map(|family| cell(&[(0, int(family as u32))], verdict(family))).collect()
}

fn cells(rule: Rule) -> Vec<Cell> {
    let inet = [libc::AF_INET, libc::AF_INET6];
    match rule {
        Rule::Notify => vec![cell(&[], Verdict::Notify)],
        Rule::Refuse(code) => vec![cell(&[], Verdict::Errno(code))],
        Rule::Socket => {
            // In a network namespace of an engine's, a packet socket would send past the stack, and past its rules.
            let native =
                crate::filter::NATIVE_FAMILIES.into_iter().filter(|family| *family != libc::AF_PACKET);
            families(&inet, &native.collect::<Vec<_>>())
        }
        Rule::SocketPair => families(&[], &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]),
        Rule::IfBits { argument, bits } => if_bits(argument, bits, &[(&[], Verdict::Allow)]),
        Rule::IfPointer(pointer) => pointer_cells(pointer).map(|(c, v)| cell(&[c], v)).to_vec(),
        Rule::IfPointerOrFlags { pointer, flags, bits } => {
            let [given, none] = pointer_cells(pointer);
            if_bits(flags, bits, &[(&[given.0], given.1), (&[none.0], none.1)])
        }
        Rule::Ioctl => {
            let outq = int(libc::TIOCOUTQ as u32);
            let interfaces = Condition::Bits { mask: INT & !0xff, value: 0x8900 };
            let mut cells = terminal_cells(&[outq, interfaces]);
            cells.extend([outq, interfaces].map(|condition| cell(&[(1, condition)], Verdict::Notify)));
            cells
        }
        Rule::Terminal => terminal_cells(&[]),
        Rule::SetSockOpt => {
            let (level, option) = (int(libc::SOL_SOCKET as u32), int(unix::PASS_RIGHTS as u32));
            let refused = cell(&[(1, level), (2, option)], Verdict::Errno(libc::ENOPROTOOPT));
            let others = none_of(&[level]).into_iter().map(|level| cell(&[(1, level)], Verdict::Notify));
            let beside = none_of(&[option]).into_iter().map(|o| cell(&[(1, level), (2, o)], Verdict::Notify));
            std::iter::once(refused).chain(others).chain(beside).collect()
        }
    }
}

/// Trapped if one of the bits is set in an argument; else what `without` says.
fn if_bits(argument: u32, bits: u32, without: &[(&[(u8, Condition)], Verdict)]) -> Vec<Cell> {
    let argument = argument as u8;
    let mut conditions = lowest_of(bits);
    let none = conditions.pop();
    let mut cells: Vec<Cell> =
        conditions.into_iter().map(|condition| cell(&[(argument, condition)], Verdict::Notify)).collect();
    for (more, verdict) in without {
        let conditions: Vec<_> =
            none.iter().map(|none| (argument, *none)).chain(more.iter().copied()).collect();
        cells.push(cell(&conditions, *verdict));
    }
    cells
}

fn pointer_cells(pointer: u32) -> [((u8, Condition), Verdict); 2] {
    let zero = Condition::Bits { mask: u64::MAX, value: 0 };
    [((pointer as u8, Condition::NotZero), Verdict::Notify), ((pointer as u8, zero), Verdict::Allow)]
}

fn terminal_cells(beside: &[Condition]) -> Vec<Cell> {
    let typing = crate::filter::TYPING.map(int);
    let refused = typing.map(|condition| cell(&[(1, condition)], Verdict::Errno(libc::EPERM)));
    let others = none_of(&[&typing[..], beside].concat());
    refused.into_iter().chain(others.into_iter().map(|c| cell(&[(1, c)], Verdict::Allow))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{self, AUDIT_ARCH};
    use crate::filter::program;

    /// Words that a program could pass as an argument, the interesting ones among them.
    fn words() -> Vec<u64> {
        let mut words: Vec<u64> = (0..50).chain([64, 0x2000_0000, 0x4000_0000, 0x4002_0000]).collect();
        words
            .extend([0x5411, 0x5412, 0x5413, 0x541c, 0x88ff, 0x8900, 0x8933, 0x89ff, 0x8a00, 83, 84, 0x1000]);
        words.extend([
            libc::CLONE_NEWNET as u64,
            libc::MSG_FASTOPEN as u64,
            u64::from(u32::MAX),
            1 << 40,
            u64::MAX,
        ]);
        words
    }

    #[test]
    fn the_table_decides_as_the_filter_does_and_by_one_cell() {
        for sockets in [Sockets::Host, Sockets::Surrogates, Sockets::StreamSurrogates] {
            let filter = program(sockets, unix::can_refuse_rights());
            for (number, cells) in table(sockets) {
                for first in words() {
                    for second in words() {
                        // Each pair of arguments that some rule looks at has both.
                        let args = [first, second, first, first, second, 0];
                        let meets = |cell: &&Cell| {
                            cell.conditions.iter().all(|(index, c)| c.holds(args[usize::from(*index)]))
                        };
                        let found: Vec<_> = cells.iter().filter(meets).collect();
                        let verdict = match found[..] {
                            [cell] => cell.verdict,
                            // The kernel knows no such family.
                            [] if [libc::SYS_socket, libc::SYS_socketpair].contains(&number) => {
                                assert!(first & INT >= FAMILIES as u64);
                                Verdict::Errno(libc::EAFNOSUPPORT)
                            }
                            _ => panic!("{number} {args:x?}: {found:?}"),
                        };
                        let as_filter = match verdict {
                            Verdict::Allow => libc::SECCOMP_RET_ALLOW,
                            Verdict::Notify => libc::SECCOMP_RET_USER_NOTIF,
                            Verdict::Errno(code) => libc::SECCOMP_RET_ERRNO | code as u32,
                        };
                        // Containers alone have no packet sockets: theirs would lead out.
                        let is_packet = number == libc::SYS_socket && first & INT == libc::AF_PACKET as u64;
                        let refused = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
                        let of_filter = bpf::run(&filter, AUDIT_ARCH, number, args);
                        assert_eq!(
                            if is_packet { refused } else { of_filter },
                            as_filter,
                            "{number} {args:x?}"
                        );
                    }
                }
            }
        }
    }
}
