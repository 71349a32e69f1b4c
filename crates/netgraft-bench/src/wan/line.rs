//! The line between the two ends: a process that carries frames from one interface to another, late, out of order or not
//! at all.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use netgraft_link::{Dial, Faulty, Way};
use netgraft_plugin::faults::{Faults, LinkFaults};
use netgraft_plugin::link::{FrameMeta, Link};
use netgraft_plugin::{Instant, InterfaceName, LinkConfig, StackConfig};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::hub::Hub;
use crate::error::{Doing, Error, Result};

/// What the process prints when it carries frames.
pub(super) const READY: &str = "ready";
/// Frames that are taken from an interface before the other one has its turn.
const BATCH: usize = 256;
/// How long the process sleeps at most, so that it sees the end of its input.
const NAP: Duration = Duration::from_millis(50);

/// One end of the line.
type End = Faulty<Box<dyn Link>>;

/// Carries frames from each left interface to its right one and back until standard input ends; the faults are those of each
/// direction, and all interfaces share them.
pub(crate) fn run(left: &[InterfaceName], right: &[InterfaceName], faults: Faults, seed: u64) -> Result<()> {
    if left.len() != right.len() || left.is_empty() {
        return Err(Error::Failed("a line has as many interfaces at one end as at the other".to_owned()));
    }
    let mut ends: Vec<(End, Dial)> = Vec::new();
    for names in [left, right] {
        // A direction's faults are those of the end where its frames come in.
        let how = LinkFaults::only_incoming(faults);
        // Each direction by itself, and each repeatable.
        ends.push(Faulty::new(open_all(names)?, how, seed.wrapping_add(ends.len() as u64)));
    }
    let over: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    std::thread::spawn(move || {
        // What comes is nothing to us; the end is. An error ends the line as well.
        let _ = std::io::copy(&mut std::io::stdin().lock().take(u64::MAX), &mut std::io::sink());
        over.store(true, Ordering::Relaxed);
    });
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush()).doing(|| "saying that the line is there")?;
    let start = Clock::now();
    let now = || Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    while !over.load(Ordering::Relaxed) {
        let mut moved = 0;
        for pair in ends.chunks_exact_mut(2) {
            let [left, right] = pair else { continue };
            moved += carry(&mut left.0, &mut right.0, now())?;
            moved += carry(&mut right.0, &mut left.0, now())?;
        }
        if moved == 0 {
            sleep(&ends, now())?;
        }
    }
    for ((_, dial), names) in ends.iter().zip([left, right]) {
        let counts = dial.counts(Way::In);
        if counts.frames > 0 {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            writeln!(out, "{}: {counts:?}", names.join(", ")).doing(|| "saying what became of the frames")?;
        }
    }
    Ok(())
}

fn open_all(names: &[InterfaceName]) -> Result<Box<dyn Link>> {
    if let [name] = names {
        return open(name);
    }
    let links: Vec<Box<dyn Link>> = names.iter().map(open).collect::<Result<_>>()?;
    Ok(Box::new(Hub::new(links)?))
}

fn open(name: &InterfaceName) -> Result<Box<dyn Link>> {
    let config = StackConfig { link: LinkConfig::packet(name.clone()), ..StackConfig::default() };
    let failed = |error: netgraft_plugin::stack::SetupError| Error::Failed(error.to_string());
    let opened = netgraft_link::open(&config).map_err(failed)?;
    let link =
        netgraft_link::rebuild(&config, name.as_str(), &opened.init_str, opened.fds).map_err(failed)?;
    link.link.ok_or_else(|| Error::Failed(format!("{name} is no link")))
}

/// Moves what is due in one direction; how many frames.
fn carry(from: &mut End, to: &mut End, now: Instant) -> Result<usize> {
    let mut lost = None;
    let moved = from.receive(now, BATCH, &mut |frame| {
        let sent = match to.send(now, frame, FrameMeta::default()) {
            // Room is made by sending what is queued.
            Err(netgraft_plugin::Error::Again) => {
                to.flush(now).and_then(|()| to.send(now, frame, FrameMeta::default()))
            }
            other => other,
        };
        match sent {
            Ok(()) | Err(netgraft_plugin::Error::Again) => {}
            Err(error) => lost = Some(error),
        }
    });
    let flushed = match to.flush(now) {
        Err(netgraft_plugin::Error::Again) => Ok(()),
        other => other,
    };
    let failed = |error| Error::Failed(format!("the line broke: {error}"));
    if let Some(error) = lost {
        return Err(failed(error));
    }
    flushed.map_err(failed)?;
    moved.map_err(failed)
}

/// Waits until a frame comes or is due.
fn sleep(ends: &[(End, Dial)], now: Instant) -> Result<()> {
    let due = ends.iter().filter_map(|(end, _)| end.next_deadline()).min();
    let time = due.map_or(NAP, |at| at.since(now).min(NAP));
    let timeout = Timespec::try_from(time).map_err(std::io::Error::other).doing(|| "waiting for frames")?;
    let mut fds: Vec<_> =
        ends.iter().filter_map(|(end, _)| Some(PollFd::from_borrowed_fd(end.fd()?, PollFlags::IN))).collect();
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).doing(|| "waiting for frames"),
    }
}
