//! The first bytes of an object: whether the dynamic linker of this process could take it (elf(5)).

use crate::error::Fault;

const MAGIC: &[u8] = b"\x7fELF";
/// Offsets in the header of `e_type` and `e_machine`, two bytes each.
const TYPE: usize = 16;
const MACHINE: usize = 18;
/// The bytes that are looked at.
pub(crate) const HEADER: usize = 20;

const OURS: (u8, u8, u16) = (
    if cfg!(target_pointer_width = "64") { 2 } else { 1 },
    if cfg!(target_endian = "little") { 1 } else { 2 },
    if cfg!(target_arch = "x86_64") {
        62
    } else if cfg!(target_arch = "aarch64") {
        183
    } else if cfg!(target_arch = "riscv64") {
        243
    } else {
        0
    },
);

fn machine((class, data, machine): (u8, u8, u16)) -> String {
    let name = match machine {
        3 => "i386".to_owned(),
        40 => "ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        21 => "PowerPC64".to_owned(),
        22 => "S/390".to_owned(),
        other => format!("machine {other}"),
    };
    let bits = if class == 1 { "32" } else { "64" };
    let order = if data == 1 { "little" } else { "big" };
    format!("{name} ({bits} bits, {order} endian)")
}

/// Checks the beginning of a file.
pub(crate) fn check(header: &[u8]) -> Result<(), Fault> {
    if !header.starts_with(MAGIC) || header.len() < HEADER {
        return Err(Fault::NotElf);
    }
    let (class, data) = (header[4], header[5]);
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1]];
        if data == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let theirs = (class, data, word(MACHINE));
    if theirs != OURS {
        return Err(Fault::Machine { theirs: machine(theirs), ours: machine(OURS) });
    }
    match word(TYPE) {
        3 => Ok(()),
        1 => Err(Fault::NotShared("an object file")),
        2 => Err(Fault::NotShared("an executable")),
        4 => Err(Fault::NotShared("a core file")),
        _ => Err(Fault::NotShared("of an unknown type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_executable_would_do_and_other_things_not() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(check(&own).is_ok(), "position independent executables have the type of shared objects");
        for (at, value, text) in [
            (0, b'M', "is not a shared object: it is no ELF file"),
            (4, 1, "(32 bits"),
            (5, 2, "big endian"),
            (MACHINE, 40, "ARM"),
            (TYPE, 1, "an object file"),
            (TYPE, 2, "an executable"),
        ] {
            let mut bytes = own.clone();
            bytes[at] = value;
            let error = check(&bytes).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(matches!(check(b"\x7fELF"), Err(Fault::NotElf)));
    }
}
