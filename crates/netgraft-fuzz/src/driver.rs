//! A fuzzer without feedback, for any compiler: inputs of the corpus, and changes of them.

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use crate::Target;

/// The longest input that is made, in bytes.
const LONGEST: usize = 4096;
/// Values at which something often changes.
const EDGES: [u64; 12] =
    [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];

/// An input that a target did not survive.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// What it panicked with.
    pub text: String,
}

/// The folder of the corpora in this repository.
#[must_use]
pub fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// The inputs of a target's corpus, in the order of their names.
///
/// # Errors
/// If the folder or a file cannot be read.
pub fn corpus(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(corpus_folder().join(target.name))? {
        files.push(entry?.path());
    }
    files.sort();
    files.iter().map(fs::read).collect()
}

/// Runs a target on one input.
///
/// # Errors
/// The panic, as a fault.
pub fn try_input(target: &Target, input: &[u8]) -> Result<(), Fault> {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Fault { target: target.name, input: input.to_vec(), text }
    })
}

/// Runs a target on its corpus and on `runs` inputs that are made of it. The same `seed` makes the same ones.
///
/// # Errors
/// The first fault.
pub fn fuzz(target: &Target, corpus: &[Vec<u8>], runs: u64, seed: u64) -> Result<(), Fault> {
    for input in corpus {
        try_input(target, input)?;
    }
    let mut random = Random(seed);
    for _ in 0..runs {
        let mut input = random.pick(corpus).cloned().unwrap_or_default();
        for _ in 0..=random.below(6) {
            change(&mut input, corpus, &mut random);
        }
        input.truncate(LONGEST);
        try_input(target, &input)?;
    }
    Ok(())
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.next() % limit as u64) as usize }
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

/// Changes an input in one place.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len());
    match random.below(7) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.next() as u8,
        2 => {
            let edge = random.pick(&EDGES).copied().unwrap_or(0);
            let edge = if random.next() & 1 == 0 { edge } else { edge.wrapping_neg() };
            let width = 1 << random.below(4);
            let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
            let bytes = if random.next() & 1 == 0 { &little[..width] } else { &big[8 - width..] };
            input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        }
        3 => {
            let len = random.below(16);
            let bytes: Vec<u8> = (0..=len).map(|_| random.next() as u8).collect();
            input.splice(at..at, bytes);
        }
        4 => {
            let end = (at + 1 + random.below(16)).min(input.len());
            input.drain(at..end);
        }
        5 => {
            // A part of another input.
            let other = random.pick(corpus).map(Vec::as_slice).unwrap_or_default();
            let from = random.below(other.len());
            let len = random.below(64.min(other.len() - from) + 1);
            input.splice(at..at, other[from..from + len].iter().copied());
        }
        _ => input.truncate(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_and_its_input_repeats_it() {
        let run = |bytes: &[u8]| assert!(bytes.len() < 4 || bytes[2] != 0xff, "a byte of {}", bytes.len());
        let target = Target { name: "planted", run };
        let fault = fuzz(&target, &[b"seed".to_vec()], 100_000, 1).unwrap_err();
        assert!(fault.input.len() >= 4 && fault.input[2] == 0xff && fault.text.starts_with("a byte of "));
        assert_eq!(try_input(&target, &fault.input), Err(fault));
    }

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        use std::cell::RefCell;
        thread_local! { static SEEN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) }; }
        let target =
            Target { name: "noted", run: |bytes| SEEN.with_borrow_mut(|seen| seen.push(bytes.to_vec())) };
        let seen = |seed| {
            SEEN.take();
            fuzz(&target, &[b"one".to_vec(), b"another".to_vec()], 200, seed).unwrap();
            SEEN.take()
        };
        assert_eq!(seen(7), seen(7));
        assert_ne!(seen(7), seen(8));
        assert_eq!(seen(7).len(), 202);
    }
}
