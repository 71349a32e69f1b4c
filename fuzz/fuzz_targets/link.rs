#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netgraft_fuzz::run("link", bytes));
