//! What connections take of memory: little when they are idle, and never more than there is.

mod common;

use std::time::Duration;

use common::{Wire, World};
use netgraft_tcp::{Algorithm, Config, Connection, Path, Pool, State};

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

#[test]
fn a_connection_at_rest_has_less_than_two_kibibytes_whatever_it_has_done() {
    for algorithm in [Algorithm::Cubic, Algorithm::NewReno, Algorithm::Bbr] {
        for whole in [0, 65_000] {
            let config = Config { algorithm, path: Path { mss: 1460, whole }, ..Config::default() };
            let wire = Wire {
                delay: ms(5),
                loss: 10_000,
                reorder: (20_000, ms(3)),
                rate: Some((200_000_000, 500_000)),
                ..Wire::default()
            };
            let mut world = World::new([config; 2], wire, 3);
            for end in [0, 1] {
                world.bulk(end, 4_000_000, Duration::from_secs(100)).unwrap();
            }
            world.pass(Duration::from_secs(5));
            for end in [0, 1] {
                assert_eq!(world.pools[end].used(), 0, "no data, no memory");
                let now = world.now;
                world.end(end).release_idle_memory(now);
                let bytes = world.end(end).memory();
                assert!((1..2048).contains(&bytes), "{algorithm:?} {whole} {end}: {bytes} bytes");
            }
        }
    }
}

#[test]
fn memory_that_is_used_up_stops_nobody_for_good() {
    let config = Config { path: Path { mss: 1460, whole: 0 }, ..Config::default() };
    let mut world = World::new([config; 2], Wire { delay: ms(5), loss: 20_000, ..Wire::default() }, 5);
    // Less for everything than the connection alone would take.
    let most = 96 << 10;
    world.pools = [Pool::limited(0, most), Pool::limited(0, most)];
    world.pass(ms(100));
    let data = vec![1; 1 << 20];
    let mut sent = 0;
    // Nobody reads: both pools fill up, and no more.
    for _ in 0..200 {
        sent += world.send(0, &data[..64 << 10]);
        world.pass(ms(20));
        for pool in &world.pools {
            assert!(pool.used() <= most + (16 << 10), "{} of {most}", pool.used());
        }
    }
    assert!(world.pools[1].is_full() && world.pools[1].pressures() > 0, "{:?}", world.pools[1].used());
    assert!(sent < 3 * most, "{sent}");
    // Then somebody reads, and all comes.
    let mut buf = vec![0; 1 << 20];
    let mut got = 0;
    for _ in 0..20_000 {
        got += world.recv(1, &mut buf);
        if got >= sent {
            break;
        }
        world.pass(ms(20));
    }
    assert_eq!(got, sent);
    world.bulk_more(0, 1_000_000, Duration::from_secs(200));
    assert_eq!(world.state(0), Some(State::Established));
}

#[test]
fn a_pool_that_others_have_used_up_leaves_the_least_to_each() {
    let config = Config::default();
    let mut world = World::new([config; 2], Wire { delay: ms(5), ..Wire::default() }, 5);
    world.pass(ms(100));
    // Another connection holds all there is, on both sides.
    let mut other = World::new([config; 2], Wire { delay: ms(5), ..Wire::default() }, 6);
    other.pass(ms(100));
    for end in [0, 1] {
        std::mem::swap(&mut world.pools[end], &mut other.pools[end]);
        other.pools[end] = Pool::limited(0, 64 << 10);
        other.send(end, &vec![2; 64 << 10]);
        assert!(other.pools[end].is_full());
        std::mem::swap(&mut world.pools[end], &mut other.pools[end]);
    }
    let took = world.bulk(0, 100_000, Duration::from_secs(60)).unwrap();
    // At least 4 KiB in each round trip of 10 ms.
    assert!(took < ms(500), "{took:?}");
    assert!(Connection::connect(&config, 1, world.now).memory() < 2048);
}
