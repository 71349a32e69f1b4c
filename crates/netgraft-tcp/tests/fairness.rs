//! How flows share a bottleneck, in virtual time. `cargo test -p netgraft-tcp --test fairness -- --nocapture` prints the
//! shares.

mod common;

use std::time::Duration;

use common::shared::{Bottleneck, Shared};
use netgraft_tcp::{Algorithm, Config, Path};

/// That of `netgraft-bench wan`: 100 Mbit/s, a queue of one round trip. Our ends wake a little late.
const BOTTLENECK: Bottleneck = Bottleneck {
    rate: 100_000_000,
    queue: 170,
    delay: Duration::from_millis(10),
    late: Duration::from_micros(300),
};
/// Milliseconds between the beginnings of flows: what becomes of a few flows depends on it as on a throw of dice, so that
/// only a mean says something.
const GAPS: [u64; 3] = [0, 3, 7];

/// Mbit/s of each flow: `ours` of ours, of which the first begins `behind` after the first of `others` of the kernel's.
fn rates(
    algorithm: Algorithm,
    (ours, others): (u32, u32),
    (gap, behind): (Duration, Duration),
    seconds: u64,
) -> Vec<f64> {
    let config = Config { algorithm, path: Path { mss: 1460, whole: 65_000 }, ..Config::default() };
    let mut shared = Shared::new(BOTTLENECK);
    for number in 0..ours {
        shared.ours(config, behind + gap * number);
    }
    for number in 0..others {
        shared.other(gap * number);
    }
    shared.pass(Duration::from_secs(seconds));
    shared.arrived.iter().map(|bytes| *bytes as f64 * 8.0 / 1e6 / seconds as f64).collect()
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

#[test]
fn four_flows_share_a_bottleneck() {
    for (algorithm, gaps, least) in [(Algorithm::Cubic, &GAPS[..1], 0.6), (Algorithm::Bbr, &GAPS[..], 0.75)] {
        let mut shares = Vec::new();
        for &gap in gaps {
            let all = rates(algorithm, (4, 0), (Duration::from_millis(gap), Duration::ZERO), 10);
            let total: f64 = all.iter().sum();
            assert!(total > 88.0, "{algorithm:?}, {gap} ms apart: {all:.1?}");
            // What the slowest has of its quarter.
            shares.push(all.iter().copied().fold(f64::MAX, f64::min) * 4.0 / total);
        }
        println!("{:6} {shares:.2?}, mean {:.2}", algorithm.name(), mean(&shares));
        assert!(mean(&shares) >= least, "{algorithm:?}: {shares:.2?}");
    }
}

#[test]
fn two_flows_beside_two_of_version_1_have_their_share() {
    for (behind, least) in [(0, 0.8), (100, 0.7)] {
        let mut shares = Vec::new();
        for gap in [0, 7] {
            let (gap, behind) = (Duration::from_millis(gap), Duration::from_millis(behind));
            let all = rates(Algorithm::Bbr, (2, 2), (gap, behind), 20);
            let total: f64 = all.iter().sum();
            assert!(total > 88.0, "{gap:?} apart, {behind:?} behind: {all:.1?}");
            shares.push((all[0] + all[1]) * 2.0 / total);
        }
        println!("{behind} ms behind version 1: {shares:.2?}, mean {:.2}", mean(&shares));
        assert!((least..=1.5).contains(&mean(&shares)), "{behind} ms behind: {shares:.2?}");
    }
}
