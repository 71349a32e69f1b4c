//! The table of an object, taken and checked.

use std::ptr;

use crate::raw::{Entry, Table, VERSION};

/// Why a table is not taken.
pub(crate) enum Bad {
    Refused,
    Version(u32),
    Truncated { size: u32, missing: Vec<String> },
    Size { size: u32, version: u32 },
}

/// The first two fields, which every version has.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    size: u32,
    version: u32,
}

/// Asks an object for its table. What is beyond the object's own size is absent; what is beyond ours is not looked
/// at.
pub(crate) fn fetch(entry: Entry) -> Result<Box<Table>, Bad> {
    // SAFETY: the entry point takes a number and returns a pointer.
    let theirs = unsafe { entry(VERSION) };
    if theirs.is_null() {
        return Err(Bad::Refused);
    }
    // SAFETY: a table of any version begins with these fields; alignment is not taken for granted.
    let head = unsafe { ptr::read_unaligned(theirs.cast::<Head>()) };
    if head.version >> 16 != VERSION >> 16 {
        return Err(Bad::Version(head.version));
    }
    let mut ours = Box::new(empty());
    // Half a pointer is none.
    let length = (head.size as usize).min(size_of::<Table>()) / align_of::<Table>() * align_of::<Table>();
    // SAFETY: the object says that so many bytes are there; ours has room for them. Every bit pattern is a value of the
    // fields: numbers, raw pointers and optional functions, which are only called if the table is what it says.
    unsafe { ptr::copy_nonoverlapping(theirs.cast::<u8>(), ptr::from_mut(&mut *ours).cast::<u8>(), length) };
    let missing = missing(&ours);
    if !missing.is_empty() {
        return Err(Bad::Truncated { size: head.size, missing });
    }
    // Each version has functions that the one before did not have.
    if head.version.cmp(&VERSION) != (head.size as usize).cmp(&size_of::<Table>()) {
        return Err(Bad::Size { size: head.size, version: head.version });
    }
    Ok(ours)
}

fn empty() -> Table {
    // SAFETY: zero is a value of every field: numbers, null pointers, absent functions.
    unsafe { std::mem::zeroed() }
}

/// The mandatory functions that are not there.
fn missing(table: &Table) -> Vec<String> {
    macro_rules! absent {
        ($(
            $(#[$need:ident])? $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty
                $(= $broken:expr, |$stack:ident| $body:expr)?;
        )*) => {
            [("create", true, table.create.is_none()),
                $((stringify!($name), is_required(&[$(stringify!($need))?]), table.$name.is_none())),*]
        };
    }
    let all = crate::interface::interface!(absent);
    all.iter()
        .filter(|(_, required, absent)| *required && *absent)
        .map(|(name, ..)| (*name).to_owned())
        .collect()
}

/// Whether a row of the table of functions has the mark.
fn is_required(marks: &[&str]) -> bool {
    marks.contains(&"required")
}
