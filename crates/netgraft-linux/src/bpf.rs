//! Filters of system calls as programs of classic BPF (seccomp(2)): a search by number, and what decides a number that is
//! found.
//!
//! When a filter is installed, the kernel runs it once for each number that there is, to know which calls need not be
//! filtered, and again for each call that is not one of these. So the numbers are a tree: a chain of them, as
//! compilers of such filters make it, took 0.2 ms to install for the sentry's 60.

use std::io;

use libc::sock_filter;

#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCH: u32 = 0xC000_00B7;

pub(crate) const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(crate) const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(crate) const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(crate) const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data` (seccomp(2)).
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub(crate) const MOST: usize = 4096;
/// So many numbers are compared one after the other: a further branch would take as long.
const LEAF: usize = 3;

pub(crate) const fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}

pub(crate) const fn ret(value: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: value }
}

pub(crate) const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A jump over more than a condition can jump over.
const fn far(over: usize) -> sock_filter {
    sock_filter { code: JUMP, jt: 0, jf: 0, k: over as u32 }
}

/// The low word of an argument; both architectures are little-endian.
pub(crate) const fn arg_low(index: u32) -> sock_filter {
    load(OFFSET_ARGS + 8 * index)
}

pub(crate) const fn arg_high(index: u32) -> sock_filter {
    load(OFFSET_ARGS + 8 * index + 4)
}

/// What decides a call of one number: instructions that end in a return on every way through.
pub(crate) type Decision = (u32, Vec<sock_filter>);

/// Finds the decision of the number that was loaded, in a table that is sorted by number; `otherwise` is returned for all others.
pub(crate) fn search(table: &[Decision], otherwise: u32) -> Vec<sock_filter> {
    let middle = table.len() / 2;
    if table.len() <= LEAF {
        let mut code = Vec::new();
        for (number, decision) in table {
            match u8::try_from(decision.len()) {
                Ok(near) => code.push(jump(JUMP_EQUAL, *number, 0, near)),
                Err(_) => code.extend([jump(JUMP_EQUAL, *number, 1, 0), far(decision.len())]),
            }
            code.extend(decision);
        }
        code.push(ret(otherwise));
        return code;
    }
    let (below, above) = (search(&table[..middle], otherwise), search(&table[middle..], otherwise));
    let mut code = match u8::try_from(below.len()) {
        Ok(near) => vec![jump(JUMP_AT_LEAST, table[middle].0, near, 0)],
        // Farther than a condition can jump.
        Err(_) => vec![jump(JUMP_AT_LEAST, table[middle].0, 0, 1), far(below.len())],
    };
    code.extend(below);
    code.extend(above);
    code
}

/// So many conditions on one call fit into the jump that a failed one makes.
pub(crate) const MOST_CONDITIONS: usize = 42;

/// Returns `matched` if all conditions hold, each an argument's index, a mask and a value, and goes on behind if not: at most
/// [`MOST_CONDITIONS`].
pub(crate) fn if_all(conditions: &[(u8, u64, u64)], matched: u32) -> Vec<sock_filter> {
    let mut code = vec![ret(matched)];
    for &(index, mask, value) in conditions.iter().rev() {
        for (load, mask, value) in [
            (arg_low(index.into()), mask as u32, value as u32),
            (arg_high(index.into()), (mask >> 32) as u32, (value >> 32) as u32),
        ] {
            let test = jump(JUMP_EQUAL, value & mask, 0, code.len() as u8);
            let masked = sock_filter { code: AND, jt: 0, jf: 0, k: mask };
            let look: &[sock_filter] = match mask {
                // Nothing of this word is asked for.
                0 => &[],
                u32::MAX => &[load, test],
                _ => &[load, masked, test],
            };
            code = [look, &code].concat();
        }
    }
    code
}

/// Installs a program for good (seccomp(2)) and returns what the kernel answers; sets `no_new_privs` before (prctl(2)).
///
/// # Errors
/// As seccomp(2); E2BIG if the program is too long.
pub(crate) fn install(code: &[sock_filter], flags: libc::c_ulong) -> io::Result<i64> {
    let len = u16::try_from(code.len()).ok().filter(|len| usize::from(*len) <= MOST);
    let filter = libc::sock_fprog {
        len: len.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: code.as_ptr().cast_mut(),
    };
    crate::confine::no_new_privileges()?;
    // SAFETY: `filter` points to `code`, which outlives the call and is only read by the kernel.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    crate::result::check_long(answer)
}

/// Runs a program as the kernel would (the few instructions that there are).
#[cfg(test)]
pub(crate) fn run(code: &[sock_filter], arch: u32, number: i64, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&(number as u32).to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (i, arg) in args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut pc, mut acc) = (0, 0u32);
    loop {
        let op = code[pc];
        pc += 1;
        let branch = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
        match op.code {
            LOAD_WORD => {
                let at = op.k as usize;
                acc = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND => acc &= op.k,
            JUMP => pc += op.k as usize,
            JUMP_EQUAL => pc += branch(acc == op.k),
            JUMP_AT_LEAST => pc += branch(acc >= op.k),
            JUMP_ANY_BIT => pc += branch(acc & op.k != 0),
            RETURN => return op.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_found_in_a_table_of_any_length() {
        for entries in 0..600u32 {
            // Long decisions, so that jumps are farther than a condition's.
            let decision = |number: u32| [vec![load(OFFSET_ARCH); 9], vec![ret(number)]].concat();
            let table: Vec<Decision> = (0..entries).map(|n| (3 * n + 1, decision(n))).collect();
            let code = [vec![load(OFFSET_NUMBER)], search(&table, u32::MAX)].concat();
            for number in 0..3 * entries + 3 {
                let expected = if number % 3 == 1 && number < 3 * entries { number / 3 } else { u32::MAX };
                if entries < 40 || number % 7 == 0 {
                    assert_eq!(run(&code, 0, number.into(), [0; 6]), expected, "{number} of {entries}");
                }
            }
        }
    }

    #[test]
    fn conditions_look_at_both_words() {
        let holds = |conditions: &[(u8, u64, u64)], args| {
            let code = [if_all(conditions, 1), vec![ret(0)]].concat();
            run(&code, 0, 0, args) == 1
        };
        let args = [0x1_0000_0002, 5, 0, 0, 0, 0xff00_0000_0000_00f0];
        assert!(holds(&[], args));
        assert!(holds(&[(0, u64::MAX, 0x1_0000_0002)], args));
        assert!(!holds(&[(0, u64::MAX, 2)], args), "the high word differs");
        assert!(holds(&[(0, 0xffff_ffff, 2)], args));
        assert!(holds(&[(0, 0xffff_ffff, 0x7_0000_0002)], args), "what the mask leaves out does not count");
        assert!(!holds(&[(0, 0xffff_ffff_0000_0000, 2 << 32)], args));
        assert!(holds(&[(1, 4, 4), (5, 0xf000_0000_0000_0080, 0xf000_0000_0000_0080)], args));
        assert!(!holds(&[(1, 4, 4), (5, 0x0100_0000_0000_0001, 1)], args));
        assert!(!holds(&[(1, 2, 2), (5, 0, 0)], args));
        for fails in 0..=MOST_CONDITIONS {
            let mut conditions = [(1, 0x0f00_0000_0000_000f, 5); MOST_CONDITIONS];
            conditions.iter_mut().skip(fails).take(1).for_each(|condition| condition.2 = 4);
            assert_eq!(holds(&conditions, args), fails == MOST_CONDITIONS);
        }
    }
}
