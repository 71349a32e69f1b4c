//! Random interaction tests: sequences of calls, of what the network does, of signals, deaths, closes and time, against
//! a model with invariants ([`model`]).
//!
//! A sequence that fails is shrunk and printed with its seed; `NETGRAFT_SEED=N` runs the sequence of one seed.

mod model;
mod ops;
mod play;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use ops::Op;

/// Sequences that are played.
const SEQUENCES: u64 = 10_000;
/// Attempts to make a sequence shorter.
const SHRINKS: usize = 2_000;

/// Why a sequence fails, if it does.
fn play(ops: &[Op]) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| play::play(ops))) {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Plays the sequence that these bytes are.
///
/// # Panics
/// If an invariant does not hold.
#[cfg(feature = "fuzzing")]
pub(crate) fn play_bytes(bytes: &[u8]) {
    if let Err(reason) = play::play(&ops::of_bytes(bytes)) {
        panic!("{reason}");
    }
}

/// A shorter sequence that fails too.
fn shrink(mut ops: Vec<Op>) -> Vec<Op> {
    let mut tries = 0;
    let mut piece = ops.len() / 2;
    while piece > 0 && tries < SHRINKS {
        let mut at = 0;
        let before = ops.len();
        while at < ops.len() && tries < SHRINKS {
            let mut shorter = ops.clone();
            shorter.drain(at..(at + piece).min(ops.len()));
            tries += 1;
            if play(&shorter).is_some() {
                ops = shorter;
            } else {
                at += piece;
            }
        }
        if ops.len() == before {
            piece /= 2;
        }
    }
    ops
}

fn report(seed: u64) -> Option<String> {
    let ops = ops::sequence(seed);
    play(&ops)?;
    let ops = shrink(ops);
    let reason = play(&ops).unwrap_or_default();
    let list: String = ops.iter().map(|op| format!("  {op:?}\n")).collect();
    Some(format!(
        "seed {seed}: {reason}\n{list}run it with NETGRAFT_SEED={seed} cargo test -p netgraft-core random"
    ))
}

#[test]
fn sequences_of_calls_and_events_keep_the_invariants() {
    if let Ok(seed) = std::env::var("NETGRAFT_SEED") {
        let seed = seed.parse().expect("NETGRAFT_SEED is a number");
        if let Some(failure) = report(seed) {
            panic!("{failure}");
        }
        return;
    }
    let first = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let first = &first;
            scope.spawn(move || {
                for seed in (thread..SEQUENCES).step_by(threads as usize) {
                    if first.lock().unwrap().is_some() {
                        return;
                    }
                    if let Some(failure) = report(seed) {
                        first.lock().unwrap().get_or_insert(failure);
                    }
                }
            });
        }
    });
    if let Some(failure) = first.into_inner().unwrap() {
        panic!("{failure}");
    }
}

#[cfg(feature = "fuzzing")]
#[test]
fn bytes_are_sequences_of_steps() {
    assert_eq!(ops::of_bytes(&[0; 14]).len(), 2);
    assert_eq!(ops::of_bytes(&[255; 7000]).len(), 100, "no longer than is worth it");
    play_bytes(&(0..700).map(|i| (i * 37 % 251) as u8).collect::<Vec<_>>());
}

#[test]
fn a_seed_always_gives_the_same_sequence() {
    assert_eq!(ops::sequence(7), ops::sequence(7));
    assert_ne!(ops::sequence(7), ops::sequence(8));
}

/// If this fails the sequences have become shallow: nothing that matters happens in them any more.
#[test]
fn sequences_reach_what_they_are_for() {
    let mut seen = play::Seen::default();
    for seed in 0..300 {
        play::play_and_count(&ops::sequence(seed), &mut seen).unwrap();
    }
    let play::Seen { connected, accepted, waited, interrupted, bytes, datagrams, ends, resets } = seen;
    for (what, n) in [
        ("connections made", connected),
        ("connections accepted", accepted),
        ("calls that waited and were answered", waited),
        ("calls interrupted", interrupted),
        ("bytes checked", bytes),
        ("datagrams checked", datagrams),
        ("ends of streams seen", ends),
        ("resets seen", resets),
    ] {
        assert!(n >= 20, "{what}: {n}");
    }
}
