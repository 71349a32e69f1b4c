//! Nothing is left behind in the process that loads. A test of its own process, so that nobody else opens anything.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "not all of it is wanted here")]
#[path = "all/common.rs"]
mod common;

use std::sync::Arc;

use netgraft_plugin::{InitStackArgs, PreInitStackArgs, StackConfig};

/// Descriptors, children, and mappings of memory files that are not linked.
fn held() -> (usize, bool) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let pid = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/self/task/{pid}/children")).unwrap();
    (fds, children.trim().is_empty())
}

#[test]
fn nothing_is_left_behind() {
    let good = common::build("leaks_loop", "loop.c", &[]);
    let relay = common::build("leaks_relay", "level0.c", &[]);
    let dying = common::build("leaks_dying", "hostile.c", &["-DCONSTRUCTOR=abort"]);
    let before = held();
    assert!(before.1);
    for _ in 0..3 {
        assert!(crate::common::load(&dying).is_err());
        let object = Arc::new(crate::common::load(&good).unwrap());
        let mut stack = object.factory()(&StackConfig::default()).unwrap();
        stack.init(InitStackArgs::default()).unwrap();
        drop((stack, object));
        // Only pre-init: a level 0 object that is up has a thread, which never ends.
        let object = Arc::new(crate::common::load_trusted(&relay).unwrap());
        let mut stack = object.factory()(&StackConfig::default()).unwrap();
        drop(stack.pre_init(PreInitStackArgs { pid: std::process::id() }).unwrap());
    }
    assert_eq!(held(), before);
}
