//! What arrives over a simulated path, in virtual time: the table can be printed with `--nocapture`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Wire, World};
use netgraft_tcp::{Algorithm, Config, Path};

/// Mbit/s of `total` bytes; the median of five seeds.
fn goodput(algorithm: Algorithm, wire: Wire, total: usize) -> u64 {
    let config = Config { algorithm, path: Path { mss: 1460, whole: 65_000 }, ..Config::default() };
    let mut all: Vec<u64> = (1..=5)
        .map(|seed| {
            let mut world = World::new([config; 2], wire, seed);
            let took = world.bulk(0, total, Duration::from_secs(300)).unwrap();
            if std::env::var("TRACE").is_ok() {
                println!("{took:?} {:?}", world.end(0).info());
            }
            (total as u64 * 8) / took.as_micros() as u64
        })
        .collect();
    all.sort_unstable();
    all[2]
}

#[test]
fn rows_of_the_table() {
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        for (delay, loss) in [(0, 0), (0, 1000), (0, 10_000), (5, 0), (25, 0), (25, 1000), (25, 10_000)] {
            let wire = Wire {
                // Nothing takes no time at all.
                delay: Duration::from_micros(delay * 1000 + 50),
                loss,
                rate: Some((1_000_000_000, 3_000_000)),
                ..Wire::default()
            };
            let mbit = goodput(algorithm, wire, 20_000_000);
            println!(
                "{:6} {delay:3} ms {:4.1} %: {mbit:5} Mbit/s",
                algorithm.name(),
                f64::from(loss) / 10_000.0
            );
        }
    }
}
