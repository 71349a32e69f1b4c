//! What arrives over a simulated path, in virtual time. `cargo test --release -p netgraft-tcp --test goodput --
//! --nocapture` prints the table.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Wire, World};
use netgraft_tcp::{Algorithm, Config, Path};

/// Mbit/s of `total` bytes; the median of three seeds.
fn goodput(algorithm: Algorithm, wire: Wire, total: usize) -> u64 {
    let config = Config { algorithm, path: Path { mss: 1460, whole: 65_000 }, ..Config::default() };
    let mut all: Vec<u64> = (1..=3)
        .map(|seed| {
            let mut world = World::new([config; 2], wire, seed);
            let took = world.bulk(0, total, Duration::from_secs(300)).unwrap();
            (total as u64 * 8) / took.as_micros() as u64
        })
        .collect();
    all.sort_unstable();
    all[1]
}

/// Delay each way in milliseconds, loss in parts per million, and what must arrive at least of 1 Gbit/s, in Mbit/s, with
/// CUBIC and with BBR. With CUBIC losses bound the rate (RFC 9438 section 5.1): 12 kbit in each segment, over a round trip,
/// times some 1.2 over the root of the loss.
const ROWS: [(u64, u32, u64, u64); 7] = [
    (0, 0, 800, 700),
    (0, 1_000, 700, 700),
    (0, 10_000, 600, 700),
    (5, 0, 150, 150),
    (25, 0, 35, 35),
    (25, 1_000, 8, 25),
    (25, 10_000, 2, 25),
];

#[test]
fn paths_carry_what_they_can() {
    for (delay, loss, cubic, bbr) in ROWS {
        let wire = Wire {
            // Nothing takes no time at all.
            delay: Duration::from_micros(delay * 1000 + 50),
            loss,
            rate: Some((1_000_000_000, 3_000_000)),
            ..Wire::default()
        };
        for (algorithm, least) in [(Algorithm::Cubic, cubic), (Algorithm::Bbr, bbr)] {
            let mbit = goodput(algorithm, wire, 2_000_000);
            println!(
                "{:6} {delay:3} ms {:4.1} %: {mbit:5} Mbit/s",
                algorithm.name(),
                f64::from(loss) / 10_000.0
            );
            assert!(mbit >= least, "{algorithm:?} {delay} ms, {loss} ppm: {mbit} Mbit/s and not {least}");
        }
    }
}

#[test]
fn a_path_that_loses_by_itself_is_used_whenever_the_losses_come() {
    // Mbit/s of the first two seconds at a round trip of 50 ms. An unlucky round at the beginning must not end the search
    // for the path's rate.
    for (loss, least) in [(10_000, 120), (30_000, 70)] {
        for seed in 1..=3 {
            let config = Config {
                algorithm: Algorithm::Bbr,
                path: Path { mss: 1460, whole: 65_000 },
                ..Config::default()
            };
            let wire = Wire {
                delay: Duration::from_millis(25),
                loss,
                rate: Some((1_000_000_000, 3_000_000)),
                ..Wire::default()
            };
            let mut world = World::new([config; 2], wire, seed);
            world.pass(Duration::from_millis(100));
            let end = world.now + Duration::from_secs(2);
            let (mut buf, chunk, mut got) = (vec![0; 65_536], vec![0; 65_536], 0);
            loop {
                while world.send(0, &chunk) > 0 {}
                if !world.step(end) {
                    break;
                }
                got += world.recv(1, &mut buf);
            }
            let mbit = got * 8 / 2_000_000;
            assert!(mbit >= least, "{loss} ppm, seed {seed}: {mbit} Mbit/s");
        }
    }
}

#[test]
fn a_window_that_opens_late_does_not_look_like_a_slow_path() {
    // The peer offers 64 KiB for half a second, which is 10 Mbit/s at a round trip of 50 ms, and then what the path holds:
    // the search for the path's rate goes on.
    let config =
        Config { algorithm: Algorithm::Bbr, path: Path { mss: 1460, whole: 65_000 }, ..Config::default() };
    let mut narrow = config;
    narrow.receive.initial = 65_536;
    let wire =
        Wire { delay: Duration::from_millis(25), rate: Some((1_000_000_000, 3_000_000)), ..Wire::default() };
    let mut world = World::new([config, narrow], wire, 1);
    world.pass(Duration::from_millis(100));
    world.end(1).set_receive_capacity(65_536);
    let (mut buf, chunk) = (vec![0; 65_536], vec![0; 65_536]);
    let mut pass = |world: &mut World, time: u64| {
        let (end, mut got) = (world.now + Duration::from_millis(time), 0);
        loop {
            while world.send(0, &chunk) > 0 {}
            if !world.step(end) {
                return got * 8 / 1000 / time as usize;
            }
            got += world.recv(1, &mut buf);
        }
    };
    let before = pass(&mut world, 500);
    assert!(before <= 11, "{before} Mbit/s through a window of 64 KiB");
    world.end(1).set_receive_capacity(6 << 20);
    let after = pass(&mut world, 1500);
    assert!(after >= 100, "{after} Mbit/s");
}

#[test]
fn segments_that_are_overtaken_cost_little() {
    // Of 1 % each is 3 ms late, at a round trip of 50 ms: nothing is lost, and the window grows as if nothing were late.
    let took = |reorder| {
        let config = Config { path: Path { mss: 1460, whole: 65_000 }, ..Config::default() };
        let wire = Wire {
            delay: Duration::from_millis(25),
            reorder: (reorder, Duration::from_millis(3)),
            rate: Some((1_000_000_000, 3_000_000)),
            ..Wire::default()
        };
        let mut world = World::new([config; 2], wire, 1);
        let took = world.bulk(0, 10_000_000, Duration::from_secs(60)).unwrap();
        let info = world.end(0).info();
        // The first one tells that this path has such segments.
        assert!(info.counts.recoveries <= 2 && info.counts.recoveries == info.counts.undone, "{info:?}");
        took
    };
    let (clean, late) = (took(0), took(10_000));
    assert!(late.as_secs_f64() < 1.3 * clean.as_secs_f64(), "{late:?} and not {clean:?}");
}

#[test]
fn a_small_queue_is_kept_busy() {
    for algorithm in [Algorithm::Cubic, Algorithm::NewReno, Algorithm::Bbr] {
        let wire =
            Wire { delay: Duration::from_millis(10), rate: Some((20_000_000, 30_000)), ..Wire::default() };
        let mbit = goodput(algorithm, wire, 4_000_000);
        println!("{:6} 20 Mbit/s with a queue of 30 kB: {mbit} Mbit/s", algorithm.name());
        assert!(mbit >= 14, "{algorithm:?}: {mbit} of 20 Mbit/s");
    }
}

#[test]
fn a_host_that_wakes_late_does_not_look_like_a_slow_path() {
    for (delay, late) in [(5, 2), (5, 8), (25, 10), (25, 30)] {
        let wire = Wire {
            delay: Duration::from_millis(delay),
            rate: Some((1_000_000_000, 3_000_000)),
            late: Duration::from_millis(late),
            ..Wire::default()
        };
        let mbit = goodput(Algorithm::Bbr, wire, 20_000_000);
        println!("bbr    {delay} ms, {late} ms late: {mbit} Mbit/s");
        assert!(mbit >= 1000 / delay, "{delay} ms, {late} ms late: {mbit} Mbit/s");
    }
}

#[test]
fn a_marking_queue_stays_short_without_losses() {
    // RFC 3168: the queue marks above 20 kB and would drop above 200 kB.
    let config = Config { ecn: netgraft_tcp::Ecn::Ask, algorithm: Algorithm::NewReno, ..Config::default() };
    let wire = Wire {
        delay: Duration::from_millis(5),
        rate: Some((50_000_000, 200_000)),
        mark_above: Some(20_000),
        ..Wire::default()
    };
    let mut world = World::new([config; 2], wire, 1);
    let took = world.bulk(0, 5_000_000, Duration::from_secs(60)).unwrap();
    assert_eq!(world.end(0).info().repeated, 0);
    assert!(took < Duration::from_millis(1300), "{took:?} for 0.8 s of data");
}
