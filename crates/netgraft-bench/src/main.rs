//! The command `netgraft-bench`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    netgraft_bench::run()
}
