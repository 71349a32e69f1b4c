//! Holds the header and the Rust side together: what Rust knows of each structure and number becomes assertions
//! in C, compiled against the header.

use std::ffi::{c_char, c_void};
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use crate::{codes, raw};

/// A structure of the header.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    pub(crate) fields: Vec<Field>,
}

/// A field of it, with its type in C.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) offset: usize,
    pub(crate) ty: String,
}

/// A type with a name in C.
pub(crate) trait CType {
    fn c_name() -> String;
}

macro_rules! names {
    ($($ty:ty = $c:literal;)*) => {
        $(impl CType for $ty { fn c_name() -> String { $c.to_owned() } })*
    };
}
names! {
    u8 = "uint8_t"; u16 = "uint16_t"; u32 = "uint32_t"; u64 = "uint64_t"; usize = "size_t";
    i32 = "int32_t"; i64 = "int64_t"; c_char = "char"; c_void = "void"; () = "void";
    [u8; 3] = "uint8_t[3]"; [u8; 4] = "uint8_t[4]"; [u8; 6] = "uint8_t[6]"; [u8; 2] = "uint8_t[2]";
    // Texts are bytes in Rust and char in C.
    [raw::Condition; 6] = "struct netgraft_condition[6]";
}

impl CType for [u8; 16] {
    fn c_name() -> String {
        "uint8_t[16]".to_owned()
    }
}

impl<T: CType> CType for *const T {
    fn c_name() -> String {
        format!("const {} *", T::c_name())
    }
}

impl<T: CType> CType for *mut T {
    fn c_name() -> String {
        format!("{} *", T::c_name())
    }
}

macro_rules! functions {
    ($($arg:ident)*) => {
        impl<R: CType, $($arg: CType),*> CType for Option<unsafe extern "C" fn($($arg),*) -> R> {
            fn c_name() -> String {
                let args: Vec<String> = vec![$($arg::c_name()),*];
                format!("{} (*)({})", R::c_name(), args.join(", "))
            }
        }
    };
}
functions!(A);
functions!(A B);
functions!(A B C);
functions!(A B C D);
functions!(A B C D E);
functions!(A B C D E F);
functions!(A B C D E F G);
functions!(A B C D E F G H);

fn assertions() -> String {
    let mut c = String::from("#include <stddef.h>\n#include \"netgraft.h\"\n");
    let mut assert = |condition: String| {
        let _ = writeln!(c, "_Static_assert({condition}, {condition:?});");
    };
    for layout in raw::layouts() {
        let Layout { name, size, fields } = layout;
        assert(format!("sizeof({name}) == {size}"));
        for Field { name: field, offset, ty } in fields {
            assert(format!("offsetof({name}, {field}) == {offset}"));
            // The one text inside a structure is char[16] there.
            let ty = if (name, field) == ("struct netgraft_interface", "name") { "char[16]" } else { &ty };
            assert(format!("__builtin_types_compatible_p(__typeof__((({name} *)0)->{field}), {ty})"));
        }
    }
    assert(format!("sizeof(union netgraft_value) == {}", size_of::<raw::Value>()));
    assert(format!("_Alignof(union netgraft_value) == {}", align_of::<raw::Value>()));
    for (name, number) in codes::numbers() {
        assert(format!("{name} == {number}"));
    }
    assert(format!("NETGRAFT_VERSION == {}", raw::VERSION));
    for none in ["NETGRAFT_NO_LINGER", "NETGRAFT_NEVER", "NETGRAFT_UNKNOWN_ROOM"] {
        assert(format!("{none} == {}u", raw::NONE));
    }
    c
}

/// Compiles C against the header; the compiler's output if it fails.
fn compile(code: &str) -> Result<(), String> {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let mut cc = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", include, "-fsyntax-only", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the C compiler 'cc' is needed");
    std::io::Write::write_all(&mut cc.stdin.take().unwrap(), code.as_bytes()).unwrap();
    let output = cc.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn the_header_and_the_rust_side_agree() {
    compile(&assertions()).unwrap();
}

#[test]
fn a_difference_would_be_seen() {
    for wrong in ["sizeof(struct netgraft_event) == 17", "NETGRAFT_E_IO == -34"] {
        let code = format!("#include \"netgraft.h\"\n_Static_assert({wrong}, \"\");\n");
        assert!(compile(&code).is_err(), "{wrong}");
    }
    let code =
        assertions().replace("int32_t (*)(void *, uint64_t, uint32_t)", "int32_t (*)(void *, uint64_t)");
    assert!(compile(&code).is_err(), "a function's type");
}

/// Every number of the header is one that the Rust side knows: nothing is added to the header alone.
#[test]
fn the_header_has_no_number_and_no_structure_that_rust_does_not_know() {
    let header = include_str!("../include/netgraft.h");
    let known: Vec<String> = codes::numbers().into_iter().map(|(name, _)| name.to_owned()).collect();
    let mut enumerators = 0;
    for line in header.lines() {
        let Some((name, _)) = line.trim().split_once(" = ") else { continue };
        if name.starts_with("NETGRAFT_") && !line.starts_with('#') {
            enumerators += 1;
            assert!(known.iter().any(|k| k == name), "{name} is in the header only");
        }
    }
    assert_eq!(enumerators, known.len());
    let structs = header.lines().filter(|l| l.starts_with("struct ") && l.ends_with('{')).count();
    assert_eq!(structs, raw::layouts().len());
    let fields = |name: &str| {
        let body = header.split(&format!("\n{name} {{\n")).nth(1).unwrap().split("\n};").next().unwrap();
        body.matches(';').count()
    };
    for layout in raw::layouts() {
        // Comments with a semicolon would be counted too: there they are written with other marks.
        assert!(fields(layout.name) >= layout.fields.len(), "{}", layout.name);
    }
}
