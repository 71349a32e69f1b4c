//! An object's headers: whether the dynamic linker of this process could take it, and whether the file has all that
//! they say (elf(5)).

use crate::error::Fault;

const MAGIC: &[u8] = b"\x7fELF";
/// Offsets in the header of `e_type` and `e_machine`, two bytes each.
const TYPE: usize = 16;
const MACHINE: usize = 18;
/// Of the header of an ELF file of 64 bits: where the program headers are, and how long and how many they are; and its
/// own length.
const TABLE: usize = 32;
const ENTRY_SIZE: usize = 54;
const ENTRIES: usize = 56;
const HEADER: usize = 64;
/// Of a program header: its type, the offset of the segment in the file and its length there.
const SEGMENT_OFFSET: usize = 8;
const SEGMENT_ADDRESS: usize = 16;
const SEGMENT_SIZE: usize = 32;
const ENTRY: usize = 56;
/// A segment that is mapped.
const LOAD: u32 = 1;
/// The dynamic section.
const DYNAMIC: u32 = 2;

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

/// Checks a file.
pub(crate) fn check(header: &[u8]) -> Result<(), Fault> {
    // Where the two fields end that tell what it is.
    if !header.starts_with(MAGIC) || header.len() < MACHINE + 2 {
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
        3 => whole(header),
        1 => Err(Fault::NotShared("an object file")),
        2 => Err(Fault::NotShared("an executable")),
        4 => Err(Fault::NotShared("a core file")),
        _ => Err(Fault::NotShared("of an unknown type")),
    }
}

/// Checks that a file of this machine's kind has what its headers say: the dynamic linker maps what is not there, and
/// the first touch of it is SIGBUS.
fn whole(file: &[u8]) -> Result<(), Fault> {
    let needs = |end: Option<u64>| match end {
        Some(end) if end <= file.len() as u64 => Ok(()),
        Some(end) => Err(Fault::CutOff { size: file.len() as u64, end }),
        None => Err(Fault::CutOff { size: file.len() as u64, end: u64::MAX }),
    };
    needs(Some(HEADER as u64))?;
    let table = long(file, TABLE);
    let (size, count) = (u64::from(short(file, ENTRY_SIZE)), u64::from(short(file, ENTRIES)));
    needs(table.checked_add(size * count))?;
    // Another length of an entry is for the linker to refuse.
    let Some(table) = usize::try_from(table).ok().filter(|_| size == ENTRY as u64) else { return Ok(()) };
    for entry in file[table..].chunks_exact(ENTRY).take(count as usize) {
        let kind = u32::from(short(entry, 0)) | u32::from(short(entry, 2)) << 16;
        if kind == LOAD {
            needs(long(entry, SEGMENT_OFFSET).checked_add(long(entry, SEGMENT_SIZE)))?;
        }
    }
    Ok(())
}

/// What an object says of other objects; texts as they stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// Names of objects that it needs.
    pub(crate) needed: Vec<Vec<u8>>,
    /// Its own name.
    pub(crate) soname: Option<Vec<u8>>,
    /// Directories in which they are looked for, before those of the environment, and behind them.
    pub(crate) rpath: Option<Vec<u8>>,
    pub(crate) runpath: Option<Vec<u8>>,
}

/// The most entries of a dynamic section that are read.
const DYNAMIC_ENTRIES: usize = 4096;

/// Reads the dynamic section of a file that was [`check`]ed. What is not where the headers say is not there.
pub(crate) fn dynamic(file: &[u8]) -> Dynamic {
    // DT_NEEDED and so on (elf(5)).
    const NEEDED: u64 = 1;
    const STRINGS: u64 = 5;
    const SONAME: u64 = 14;
    const RPATH: u64 = 15;
    const RUNPATH: u64 = 29;
    let long = |at: usize| -> Option<u64> {
        file.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_ne_bytes)
    };
    let entries: Vec<(u64, u64)> = segments(file)
        .find(|segment| segment.kind == DYNAMIC)
        .map(|segment| {
            let count = (segment.size as usize / 16).min(DYNAMIC_ENTRIES);
            (0..count)
                .map_while(|index| {
                    let at = (segment.offset as usize).checked_add(index * 16)?;
                    Some((long(at)?, long(at + 8)?)).filter(|(tag, _)| *tag != 0)
                })
                .collect()
        })
        .unwrap_or_default();
    let strings = entries.iter().find(|(tag, _)| *tag == STRINGS).and_then(|&(_, address)| {
        let mut loaded = segments(file).filter(|segment| segment.kind == LOAD);
        let holds = |s: &Segment| address >= s.address && address - s.address < s.size;
        loaded.find(holds).and_then(|segment| segment.offset.checked_add(address - segment.address))
    });
    let text = |offset: u64| -> Option<Vec<u8>> {
        let at = usize::try_from(strings?.checked_add(offset)?).ok()?;
        let text = file.get(at..)?.split(|b| *b == 0).next()?;
        (!text.is_empty() && text.len() < 4096).then(|| text.to_vec())
    };
    let all = |wanted| entries.iter().filter(move |(tag, _)| *tag == wanted).filter_map(|&(_, at)| text(at));
    Dynamic {
        needed: all(NEEDED).collect(),
        soname: all(SONAME).next(),
        rpath: all(RPATH).next(),
        runpath: all(RUNPATH).next(),
    }
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    /// In the file.
    size: u64,
}

/// The program headers of a file of this machine's kind, as far as they are there.
fn segments(file: &[u8]) -> impl Iterator<Item = Segment> {
    let header = file.get(..HEADER).is_some();
    let (table, count) = if header { (long(file, TABLE), short(file, ENTRIES)) } else { (0, 0) };
    let table = usize::try_from(table).ok().and_then(|at| file.get(at..)).unwrap_or_default();
    table.chunks_exact(ENTRY).take(usize::from(count)).map(|entry| Segment {
        kind: u32::from(short(entry, 0)) | u32::from(short(entry, 2)) << 16,
        offset: long(entry, SEGMENT_OFFSET),
        address: long(entry, SEGMENT_ADDRESS),
        size: long(entry, SEGMENT_SIZE),
    })
}

/// Two bytes at a place, in the machine's order.
fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// Eight bytes at a place, in the machine's order.
fn long(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
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

    #[test]
    fn a_dynamic_section_is_read_and_one_that_is_none_is_empty() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let dynamic_section = dynamic(&own);
        assert!(dynamic_section.needed.contains(&b"libc.so.6".to_vec()), "{dynamic_section:?}");
        for size in (0..own.len()).step_by(own.len() / 97) {
            dynamic(&own[..size]);
        }
        let mut wild = own.clone();
        let table = long(&own, TABLE) as usize;
        wild[table..table + 20 * ENTRY].iter_mut().for_each(|byte| *byte ^= 0xff);
        assert_eq!(dynamic(&wild), Dynamic::default());
    }

    /// Every length is checked against the whole, and none is read past its end.
    #[test]
    fn a_file_that_was_cut_off_is_told() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let needed = match check(&own[..HEADER]) {
            Err(Fault::CutOff { size, end }) => (size == HEADER as u64).then_some(end).unwrap(),
            other => panic!("{other:?}"),
        };
        for size in (20..200).chain([needed as usize - 1, needed as usize, 2000]) {
            assert!(matches!(check(&own[..size]), Err(Fault::CutOff { .. })), "{size}");
        }
        let mut wild = own.clone();
        wild[TABLE..TABLE + 8].fill(0xff);
        assert!(matches!(check(&wild), Err(Fault::CutOff { .. })));
    }
}
