//! Two of our own ends over a wire that loses, reorders, doubles and delays: every byte right, every connection ends, and
//! both ends agree how.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Random, Wire, World};
use netgraft_tcp::{Algorithm, Config, Cookie, FastOpen, Path, Reason, Settings, State};

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

#[test]
fn data_passes_both_ways_and_both_ends_close() {
    let mut world = World::new([Config::default(); 2], Wire { delay: ms(10), ..Wire::default() }, 1);
    world.pass(ms(100));
    assert_eq!([world.state(0), world.state(1)], [Some(State::Established); 2]);
    world.bulk(0, 300_000, ms(10_000)).unwrap();
    world.bulk(1, 300_000, ms(10_000)).unwrap();
    let now = world.now;
    world.end(0).close(now);
    world.pass(ms(1000));
    assert_eq!([world.state(0), world.state(1)], [Some(State::FinWait2), Some(State::CloseWait)]);
    assert!(world.end(1).is_receive_over());
    // The other half still works.
    world.bulk(1, 10_000, ms(1000)).unwrap();
    let now = world.now;
    world.end(1).close(now);
    world.pass(ms(1000));
    assert_eq!([world.state(0), world.state(1)], [Some(State::TimeWait), Some(State::Closed)]);
    assert_eq!(world.end(1).reason(), None);
    assert_eq!([world.pools[0].used(), world.pools[1].used()], [0, 0], "memory is back");
}

#[test]
fn both_begin_and_both_close_at_once() {
    let mut world = World::simultaneous([Config::default(); 2], Wire { delay: ms(10), ..Wire::default() }, 1);
    world.pass(ms(100));
    assert_eq!([world.state(0), world.state(1)], [Some(State::Established); 2]);
    world.bulk(0, 100_000, ms(10_000)).unwrap();
    let now = world.now;
    world.end(0).close(now);
    world.end(1).close(now);
    world.pass(ms(1000));
    assert_eq!([world.state(0), world.state(1)], [Some(State::TimeWait); 2]);
}

#[test]
fn nobody_answers() {
    let mut world = World::new([Config::default(); 2], Wire { loss: 1_000_000, ..Wire::default() }, 1);
    world.pass(Duration::from_secs(126));
    assert_eq!((world.state(0), world.sent[0]), (Some(State::SynSent), 7));
    world.pass(Duration::from_secs(2));
    assert_eq!((world.state(0), world.end(0).reason()), (Some(State::Closed), Some(Reason::TimedOut)));
}

#[test]
fn a_closed_window_opens_again() {
    let mut world = World::new([Config::default(); 2], Wire { delay: ms(1), ..Wire::default() }, 1);
    world.pass(ms(100));
    let data = vec![7; 1 << 20];
    let mut sent = 0;
    for _ in 0..1000 {
        sent += world.send(0, &data);
        world.pass(ms(10));
    }
    // Ten seconds in which nobody reads; the update that opens the window is lost.
    world.pass(Duration::from_secs(10));
    world.wire.loss = 1_000_000;
    let mut buf = vec![0; 1 << 20];
    let mut got = world.recv(1, &mut buf);
    world.pass(ms(10));
    world.wire.loss = 0;
    world.pass(Duration::from_secs(120));
    while got < sent {
        let len = world.recv(1, &mut buf);
        assert!(len > 0, "{got} of {sent}");
        got += len;
        world.pass(ms(50));
    }
    assert_eq!(world.end(0).info().repeated, 0);
}

/// How long `total` bytes take, in the best of worlds: the path's rate, and a round trip to begin.
fn took(config: Config, wire: Wire, total: usize, seed: u64) -> Duration {
    let mut world = World::new([config; 2], wire, seed);
    world.bulk(0, total, Duration::from_secs(600)).unwrap()
}

#[test]
fn a_long_path_fills_its_window() {
    let wire = Wire { delay: ms(25), rate: Some((400_000_000, 4_000_000)), ..Wire::default() };
    let config = Config { path: Path { mss: 1460, whole: 65_535 }, ..Config::default() };
    let took = took(config, wire, 50_000_000, 1);
    // 50 MB at 400 Mbit/s are 1 s; slow start takes some of 50 ms each.
    assert!(took < ms(1800), "{took:?}");
}

#[test]
fn losses_are_survived_by_every_algorithm_and_offer() {
    for (sack, timestamps, algorithm) in [
        (true, true, Algorithm::Cubic),
        (true, false, Algorithm::Cubic),
        (false, true, Algorithm::NewReno),
        (false, false, Algorithm::NewReno),
        (true, true, Algorithm::Unlimited),
        (true, true, Algorithm::Bbr),
    ] {
        for seed in 0..20 {
            let config = Config { sack, timestamps, algorithm, ..Config::default() };
            let wire = Wire {
                delay: ms(5),
                loss: 30_000,
                duplicate: 10_000,
                reorder: (20_000, ms(7)),
                rate: Some((100_000_000, 300_000)),
                ..Wire::default()
            };
            let mut world = World::new([config; 2], wire, seed);
            let took = world.bulk(0, 500_000, Duration::from_secs(200));
            assert!(took.is_some(), "{sack} {timestamps} {algorithm:?} {seed}: {:?}", world.end(0).info());
            let now = world.now;
            world.end(0).close(now);
            world.end(1).close(now);
            world.pass(Duration::from_secs(100));
            let states = [world.state(0), world.state(1)];
            let over = |s| matches!(s, Some(State::TimeWait | State::Closed));
            assert!(states.into_iter().all(over), "{states:?}");
        }
    }
}

#[test]
fn data_in_the_syn_saves_a_round_trip_and_is_never_lost_or_doubled() {
    let cookie = Cookie::new(&[7; 8]).unwrap();
    let other = Cookie::new(&[8; 8]).unwrap();
    let client = Config { fast_open: FastOpen::Client(cookie, 1460), ..Config::default() };
    let server = |cookie| Config { fast_open: FastOpen::Server(cookie), ..Config::default() };
    let question: Vec<u8> = (0..700).map(|i| (i % 251) as u8).collect();
    // What it is for: the answer is there after one round trip of 100 ms.
    let mut world = World::new([client, server(cookie)], Wire { delay: ms(50), ..Wire::default() }, 1);
    assert_eq!(world.send(0, &question), 700);
    world.pass(ms(60));
    let mut buf = [0; 2000];
    assert_eq!(world.recv(1, &mut buf), 700);
    assert_eq!(world.state(1), Some(State::SynReceived));
    world.send(1, &question[..300]);
    world.pass(ms(50));
    assert_eq!(world.recv(0, &mut buf), 300);
    assert!(world.end(0).used_fast_open() && world.end(1).used_fast_open());
    for seed in 0..200 {
        // Half of the peers have another cookie by now.
        let known = if seed % 2 == 0 { cookie } else { other };
        let wire = Wire {
            delay: ms(20),
            loss: 150_000,
            duplicate: 100_000,
            reorder: (200_000, ms(30)),
            ..Wire::default()
        };
        let mut world = World::new([client, server(known)], wire, seed);
        world.send(0, &question);
        let (mut got, mut back) = (Vec::new(), Vec::new());
        let mut answered = 0;
        for _ in 0..6000 {
            world.pass(ms(10));
            if world.ends[1].is_some() {
                let len = world.recv(1, &mut buf);
                got.extend_from_slice(&buf[..len]);
                if got.len() == 700 && answered < 1500 {
                    answered += world.send(1, &[9; 1500][answered..]);
                }
            }
            let len = world.recv(0, &mut buf);
            back.extend_from_slice(&buf[..len]);
            if back.len() == 1500 {
                break;
            }
        }
        assert_eq!((got.len(), back.len()), (700, 1500), "seed {seed}");
        assert!(got == question && back.iter().all(|byte| *byte == 9), "seed {seed}");
        let now = world.now;
        world.end(0).close(now);
        world.end(1).close(now);
        world.pass(Duration::from_secs(60));
        let states = [world.state(0), world.state(1)];
        assert!(states.into_iter().all(|s| matches!(s, Some(State::TimeWait | State::Closed))), "{states:?}");
    }
}

#[test]
fn random_programs_agree() {
    for seed in 0..150u64 {
        let mut random = Random(seed * 7919 + 1);
        let wire = Wire {
            delay: ms(random.below(60)),
            loss: random.below(100_000) as u32,
            duplicate: random.below(50_000) as u32,
            reorder: (random.below(100_000) as u32, ms(random.below(50))),
            ..Wire::default()
        };
        let config = Config {
            path: Path { mss: 500 + random.below(1000) as u16, whole: random.below(65_535) as usize },
            sack: random.below(4) > 0,
            timestamps: random.below(4) > 0,
            window_scaling: random.below(4) > 0,
            algorithm: [Algorithm::Cubic, Algorithm::NewReno, Algorithm::Bbr][random.below(3) as usize],
            ..Config::default()
        };
        let mut world = World::new([config; 2], wire, seed);
        world.pass(Duration::from_secs(20));
        let (mut sent, mut got, mut closed) = ([0usize; 2], [0usize; 2], [false; 2]);
        let mut buf = vec![0; 100_000];
        for _ in 0..60 {
            let end = random.below(2) as usize;
            if world.ends[end].is_none() {
                continue;
            }
            match random.below(8) {
                0..=2 if !closed[end] => {
                    let len = random.below(50_000) as usize;
                    let data: Vec<u8> = (sent[end]..sent[end] + len).map(|i| (i % 251) as u8).collect();
                    sent[end] += world.send(end, &data);
                }
                3 | 4 => {
                    let most = random.below(100_000) as usize;
                    let len = world.recv(end, &mut buf[..most]);
                    for (i, byte) in buf[..len].iter().enumerate() {
                        assert_eq!(*byte, ((got[end] + i) % 251) as u8, "seed {seed}");
                    }
                    got[end] += len;
                }
                5 if random.below(10) == 0 => {
                    let now = world.now;
                    world.end(end).close(now);
                    closed[end] = true;
                }
                _ => world.pass(ms(random.below(500))),
            }
        }
        // Now both close and read to the end.
        for end in 0..2 {
            let now = world.now;
            world.end(end).close(now);
        }
        for _ in 0..600 {
            world.pass(ms(500));
            for (end, got) in got.iter_mut().enumerate() {
                loop {
                    let len = world.recv(end, &mut buf);
                    if len == 0 {
                        break;
                    }
                    *got += len;
                }
            }
        }
        assert_eq!([got[1], got[0]], sent, "seed {seed}: {:?}", world.end(0).info());
        let states = [world.state(0), world.state(1)];
        assert!(
            states.into_iter().all(|s| matches!(s, Some(State::TimeWait | State::Closed))),
            "seed {seed}: {states:?}"
        );
        assert_eq!([world.end(0).reason(), world.end(1).reason()], [None, None], "seed {seed}");
    }
}

#[test]
fn a_path_that_swallows_large_packets_is_searched_for_its_size() {
    // Segments of 1,232 bytes pass, headers included; later 1,432.
    let config = Config {
        settings: Settings { find_black_holes: true, ..Settings::default() },
        path: Path { mss: 1460, whole: 65_000 },
        ..Config::default()
    };
    let mut world = World::new([config; 2], Wire { delay: ms(10), ..Wire::default() }, 1);
    world.wire.largest = Some(1232);
    world.bulk(0, 300_000, Duration::from_secs(60)).unwrap();
    let narrow = world.end(0).info().mss.0;
    assert!((500..=1232).contains(&narrow), "{narrow}");
    world.wire.largest = Some(1432);
    world.pass(Duration::from_secs(700));
    world.bulk(0, 3_000_000, Duration::from_secs(60)).unwrap();
    let wide = world.end(0).info().mss.0;
    // A header with timestamps has 32 bytes.
    assert!(usize::from(wide) + 32 <= 1432 && usize::from(wide) + 32 + 40 >= 1432, "{wide}");
}
