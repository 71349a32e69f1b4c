//! `scripts/failed-tests` names each test of a log that failed, with what it said.

use std::path::Path;
use std::process::Command;

/// As `cargo test --no-fail-fast` prints it: a target that failed, one that passed, an end-to-end suite with a failed row
/// and something left over, a suite that was ended by a signal, documentation, and one that could not begin.
const LOG: &str = "\
     Running unittests src/lib.rs (target/release/deps/netgraft_linux-c2f8bdbe4b6fe09d)
test memory::tests::what_is_taken ... FAILED
test memory::tests::what_is_given_back ... ok

failures:

---- memory::tests::what_is_taken stdout ----

thread 'memory::tests::what_is_taken' (77) panicked at crates/netgraft-linux/src/memory.rs:9:5:
assertion `left == right` failed
  left: 1
 right: 2
stack backtrace:
   0: rust_begin_unwind

failures:
    memory::tests::what_is_taken
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s

error: test failed, to rerun pass `-p netgraft-linux --lib`
     Running tests/scripts.rs (target/release/deps/scripts-c4886e23d3bd781f)
test scripts ... ok
     Running tests/guest.rs (target/release/deps/guest-9576dfb3c95b0d05)
ok     0.1s python/tcp_echo @ none-root
FAIL   5.0s python/tcp_lifecycle_v4 @ host-root
FAIL stream/the end comes after the data and stays [v4]: nothing within 5s
skip   0.1s python/udp_reuse @ lwip.so-root (lwIP has no SO_REUSEPORT)
failed: python/tcp_lifecycle_v4 @ host-root
failed: left on the machine: interfaces [\"ng0\"]
error: test failed, to rerun pass `-p netgraft-e2e --test guest`

Caused by:
  process didn't exit successfully: `target/release/deps/guest-9576dfb3c95b0d05` (exit status: 1)
     Running tests/links.rs (target/release/deps/links-b5038460ea35540f)
FAIL   0.5s ping over v6 @ packet
error: test failed, to rerun pass `-p netgraft-e2e --test links`

Caused by:
  process didn't exit successfully: `target/release/deps/links-b5038460ea35540f` (signal: 9, SIGKILL: kill)
   Doc-tests netgraft
test crates/netgraft/src/lib.rs - (line 12) ... FAILED
error: doctest failed, to rerun pass `-p netgraft --doc`
     Running tests/command.rs (target/release/deps/command-ca463a404fe5979a)
failed: the command: no compiler
error: test failed, to rerun pass `-p netgraft-e2e --test command`
error: 5 targets failed:
    `-p netgraft-linux --lib`
";

const NAMED: &str = "\
-p netgraft-linux --lib
    memory::tests::what_is_taken
        crates/netgraft-linux/src/memory.rs:9:5:
        assertion `left == right` failed
          left: 1
         right: 2
-p netgraft-e2e --test guest
    python/tcp_lifecycle_v4 @ host-root
    left on the machine: interfaces [\"ng0\"]
-p netgraft-e2e --test links
    ping over v6 @ packet
    the program was ended (signal: 9, SIGKILL: kill)
-p netgraft --doc
    crates/netgraft/src/lib.rs - (line 12)
-p netgraft-e2e --test command
    the command: no compiler
";

#[test]
fn each_failed_test_is_named_below_its_target() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("netgraft-failed-tests-{}", std::process::id()));
    std::fs::write(&file, LOG)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/failed-tests");
    let output = Command::new(script).arg(&file).output();
    std::fs::remove_file(&file)?;
    let output = output?;
    assert_eq!(String::from_utf8(output.stderr)?, "");
    assert_eq!(String::from_utf8(output.stdout)?, NAMED);
    Ok(())
}
