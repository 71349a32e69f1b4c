//! Objects that cannot be used: one clear line each, and nothing left behind.

use std::path::{Path, PathBuf};

use netgraft_abi::Level;

use crate::common::{load, with_table};

/// What loading says, without the object's path.
fn refusal(object: &Path) -> String {
    let text = match load(object) {
        Ok(_) => panic!("{} was loaded", object.display()),
        Err(error) => error.to_string(),
    };
    assert!(!text.contains('\n'), "one line: {text}");
    text.strip_prefix(&format!("{}: ", object.display())).unwrap().to_owned()
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_is_no_shared_object() {
    assert_eq!(refusal(&file("text.so", b"int main;")), "is not a shared object: it is no ELF file");
    assert_eq!(refusal(&file("empty.so", b"")), "is not a shared object: it is no ELF file");
    assert!(refusal(Path::new("/nowhere/lib.so")).starts_with("cannot be read: No such file"));
    let good = std::fs::read(crate::common::build("objects_loop", "loop.c", &[])).unwrap();
    let changed = |name: &str, at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        refusal(&file(name, &bytes))
    };
    let other = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    assert!(changed("machine.so", 18, other).starts_with("is built for "));
    assert!(changed("class.so", 4, 1).contains("32 bits"));
    assert!(changed("relocatable.so", 16, 1).starts_with("is not a shared object but an object file"));
    for size in [40, 2000, 10_000] {
        let cut = refusal(&file("cut.so", &good[..size]));
        assert!(cut.starts_with(&format!("is cut off: the file has {size} bytes")), "{cut}");
    }
}

#[test]
fn what_has_no_entry_point_or_half_of_one() {
    let none = crate::common::build_text("objects_none", "int x;", &[]);
    assert!(refusal(&none).starts_with("has no entry point"));
    let half = "#define E __attribute__((visibility(\"default\")))\n\
                E int plugin_initstack(void) { return 0; } E int plugin_socket(void) { return 0; }";
    let text = refusal(&crate::common::build_text("objects_half", half, &[]));
    assert!(
        text.starts_with("is no complete level 0 stack: it does not export plugin_preinitstack, "),
        "{text}"
    );
    assert!(text.contains("plugin_sendmsg") && !text.contains("plugin_socket"), "all of them: {text}");
    assert!(!text.contains("plugin_get_routes"), "optional ones are not missing: {text}");
    let loose = "int nowhere(void); __attribute__((visibility(\"default\"))) \
                 int plugin_initstack(void) { return nowhere(); }";
    let text = refusal(&crate::common::build_text("objects_loose", loose, &[]));
    assert!(text.starts_with("cannot be linked: ") && text.contains("undefined symbol: nowhere"), "{text}");
}

#[test]
fn tables_that_are_not_what_they_should_be() {
    let text = refusal(&with_table("future", "t.version = 2u << 16"));
    assert_eq!(
        text,
        "speaks version 2.0 of the interface, and this netgraft 1.3: build it against the netgraft.h of this netgraft"
    );
    let text = refusal(&with_table("null", "if (v) return 0"));
    let expected = "does not speak version 1.3 of the interface: netgraft_stack returned null (it is to return its table for \
                every request of the same major version): build it against the netgraft.h of this netgraft";
    assert_eq!(text, expected);
    let text = refusal(&with_table("short", "t.size = offsetof(struct netgraft_stack_v1, recv) + 3"));
    assert!(text.ends_with("bytes that lacks recv, shutdown, close, readiness"), "{text}");
    let text = refusal(&with_table("hole", "t.poll = 0"));
    assert!(text.ends_with("bytes that lacks poll"), "{text}");
    let text = refusal(&with_table("name", "t.name = \"a\\n/b\""));
    assert!(text.starts_with("has a table with nonsense in it: its name is "), "{text}");
    let text = refusal(&with_table("list", "t.socket_count = (size_t)-1"));
    assert!(text.ends_with("its list of sockets is null or endless"), "{text}");
    let rule = "static const struct netgraft_rule r = {.condition_count = 7}; t.rules = &r; t.rule_count = 1";
    assert!(refusal(&with_table("rule", rule)).contains("system call 0"));
    let text = refusal(&with_table("wild", "t.name = (const char *)16"));
    assert_eq!(text, "died of SIGSEGV in its constructors");
}

/// A size that is not that of the version would hide functions, or show what is none.
#[test]
fn a_table_has_the_size_of_its_version() {
    for (name, change) in [("larger", "t.size += 8"), ("smaller", "t.size -= 8")] {
        let text = refusal(&with_table(name, change));
        assert!(text.contains("which is not the size of version 1.") && text.contains("sizeof"), "{text}");
    }
}

/// What is required follows from what is declared.
#[test]
fn tcp_sockets_need_their_functions() {
    let text = refusal(&with_table("deaf", "t.listen = 0; t.accept = 0; t.take_error = 0"));
    let expected = "declares TCP sockets, so its table is to have listen, accept, take_error, too: without them programs wait \
                in vain";
    assert_eq!(text, expected);
    // Without TCP they are optional.
    let udp = "t.sockets = SOCKETS + 1; t.socket_count = 1; t.listen = 0; t.accept = 0; t.take_error = 0";
    assert!(load(&with_table("datagrams", udp)).is_ok());
    let doubts = |name: &str, change: &str| load(&with_table(name, change)).unwrap().doubts().to_vec();
    assert!(doubts("no_doubt", "").is_empty());
    let listed = doubts("bare_options", "t.option_count = 0; t.options = 0");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(
        listed[0].contains("SO_REUSEADDR")
            && listed[0].contains("redis-server")
            && listed[1].contains("TCP_NODELAY")
    );
    assert_eq!(doubts("no_setter", "t.set_option = 0"), ["declares options and has no set_option"]);
}

/// A later minor version has more, and what is optional may be null.
#[test]
fn tables_of_other_minor_versions() {
    let newer = load(&with_table("newer", "t.version += 5; t.size += 8")).unwrap();
    assert_eq!((newer.level(), newer.info().name.as_str()), (Level::One, "loop"));
    let null = "memset((char *)&t + offsetof(struct netgraft_stack_v1, interfaces), 0, \
                sizeof t - offsetof(struct netgraft_stack_v1, interfaces))";
    assert!(load(&with_table("without", null)).is_ok());
}

#[test]
fn objects_that_turn_on_the_loader() {
    for (fault, text) in [
        ("abort", "died of SIGABRT in its constructors"),
        ("segfault", "died of SIGSEGV in its constructors"),
        ("exit", "exited with status 0 in its constructors"),
    ] {
        let flag = format!("-DCONSTRUCTOR={fault}");
        let object = crate::common::build(&format!("objects_{fault}"), "hostile.c", &[&flag]);
        assert_eq!(refusal(&object), text);
    }
    // What it prints goes to the log, and not where the program's output goes.
    assert!(load(&crate::common::build("objects_print", "hostile.c", &["-DCONSTRUCTOR=print"])).is_ok());
}

#[test]
fn what_an_object_needs_beside_itself_comes_with_it() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let part = "__attribute__((visibility(\"default\"))) int part(void) { return 42; }";
    crate::common::build_text("objects_part", part, &["-Wl,-soname,libobjects_part.so"]);
    let code = "#define LOOP_AS_A_PART\n#include \"loop.c\"\nint part(void);\n\
                const struct netgraft_stack_v1 *netgraft_stack(uint32_t v) { return v && part() == 42 ? &LOOP : 0; }";
    let object = crate::common::build_text(
        "objects_whole",
        code,
        &["-L", dir, "-Wl,--no-as-needed", "-lobjects_part", "-Wl,-rpath,$ORIGIN"],
    );
    let loaded = std::sync::Arc::new(load(&object).unwrap());
    assert_eq!(loaded.descriptors().len(), 2, "the object and its part");
    // As in the sentry: neither file is there any more.
    std::fs::rename(Path::new(dir).join("libobjects_part.so"), Path::new(dir).join("moved.so")).unwrap();
    std::fs::remove_file(&object).unwrap();
    let mut stack = loaded.factory()(&Default::default()).unwrap();
    stack.init(Default::default()).unwrap();
}
