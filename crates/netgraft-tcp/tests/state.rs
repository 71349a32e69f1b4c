//! A connection that is taken out and put back goes on where it was.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Random, Wire, World};
use netgraft_tcp::{Algorithm, Config, Connection, ImportError, Instant, Pool, State};

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Takes an end out and puts it back.
fn move_end(world: &mut World, end: usize) {
    let now = world.now;
    let data = world.end(end).export(now).unwrap();
    let mut old = world.ends[end].take().unwrap();
    old.release(&mut world.pools[end]);
    assert_eq!(world.pools[end].used(), 0, "nothing of the old one is left");
    let new = Connection::import(&data, world.now, &mut world.pools[end]).unwrap();
    let (a, b) = (old.info(), new.info());
    assert_eq!((a.state, a.rtt, a.mss, a.scales, a.bytes), (b.state, b.rtt, b.mss, b.scales, b.bytes));
    world.ends[end] = Some(new);
}

#[test]
fn connections_go_on_wherever_they_were_taken_out() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let config = Config {
            timestamps: random.below(2) > 0,
            sack: random.below(3) > 0,
            algorithm: Algorithm::ALL[random.below(3) as usize],
            ..Config::default()
        };
        let wire = Wire { delay: ms(10), loss: 20_000, reorder: (20_000, ms(15)), ..Wire::default() };
        let mut world = World::new([config; 2], wire, seed);
        world.pass(Duration::from_secs(10));
        let (mut sent, mut got) = (0usize, 0usize);
        let mut buf = vec![0; 30_000];
        for round in 0..40 {
            let data: Vec<u8> = (sent..sent + 20_000).map(|i| (i % 251) as u8).collect();
            sent += world.send(0, &data);
            world.pass(ms(random.below(60)));
            if random.below(3) == 0 {
                move_end(&mut world, random.below(2) as usize);
            }
            let len = world.recv(1, &mut buf);
            for (i, byte) in buf[..len].iter().enumerate() {
                assert_eq!(*byte, ((got + i) % 251) as u8, "seed {seed}, round {round}");
            }
            got += len;
        }
        let now = world.now;
        world.end(0).close(now);
        move_end(&mut world, 0);
        for _ in 0..400 {
            world.pass(ms(100));
            got += world.recv(1, &mut buf);
        }
        assert_eq!(got, sent, "seed {seed}");
        assert_eq!(world.state(1), Some(State::CloseWait), "seed {seed}");
        move_end(&mut world, 1);
        let now = world.now;
        world.end(1).close(now);
        world.pass(Duration::from_secs(60));
        assert_eq!(
            [world.state(0), world.state(1)],
            [Some(State::TimeWait), Some(State::Closed)],
            "seed {seed}"
        );
    }
}

#[test]
fn damaged_data_is_no_connection_and_no_harm() {
    let mut world = World::new([Config::default(); 2], Wire { delay: ms(10), ..Wire::default() }, 1);
    assert_eq!(world.end(0).export(Instant::ZERO), None, "there is nothing to keep yet");
    world.pass(ms(100));
    world.send(0, &[7; 3000]);
    world.pass(ms(5));
    let now = world.now;
    let data = world.end(0).export(now).unwrap();
    let mut pool = Pool::new(0);
    for len in 0..data.len() {
        let cut = Connection::import(&data[..len], world.now, &mut pool);
        assert_eq!(cut.map(|_| ()), Err(ImportError::Damaged), "{len}");
    }
    let mut other = data.clone();
    other[5] = 9;
    assert_eq!(Connection::import(&other, world.now, &mut pool).map(|_| ()), Err(ImportError::Version(9)));
    let mut random = Random(5);
    for _ in 0..20_000 {
        let mut damaged = data.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(600.min(data.len() as u64)) as usize;
            damaged[at] = random.next() as u8;
        }
        if let Ok(mut connection) = Connection::import(&damaged, world.now, &mut pool) {
            // It is some connection, and does no harm.
            for _ in 0..20 {
                let Some(transmit) = connection.transmit(world.now) else { break };
                connection.write(&transmit, (1, 2), &mut vec![0; transmit.len()]);
            }
            connection.on_time(world.now + ms(100_000));
            let _ = (connection.info(), connection.deadline());
            connection.release(&mut pool);
        }
        assert_eq!(pool.used(), 0);
    }
}
