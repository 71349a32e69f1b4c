//! The options that make a link worse.

use std::hash::{BuildHasher, RandomState};

use clap::Args;
use netgraft_launch::operator::LinkChange;
use netgraft_plugin::Wrappers;
use netgraft_plugin::faults::{Fault, Faults, LinkFaults, ParseFaultError};

/// Faults of the link, each for both directions or with `in:` or `out:` in front for one.
#[derive(Args, Debug, Default)]
#[command(
    next_help_heading = "Faults of the link (VALUE, or in:VALUE or out:VALUE for one direction; repeatable)"
)]
pub(crate) struct FaultArgs {
    /// Time that each frame takes: 25ms, 200us
    #[arg(long, value_name = "TIME", value_parser = |text: &str| directed("delay", text))]
    link_delay: Vec<Directed>,

    /// How much more or less it may be; frames stay in order
    #[arg(long, value_name = "TIME", value_parser = |text: &str| directed("jitter", text))]
    link_jitter: Vec<Directed>,

    /// Frames that are lost: 1%, or in bursts: burst:BEGIN/END[/WITHIN[/OUTSIDE]], such as burst:0.5%/20%
    #[arg(long, value_name = "LOSS", value_parser = |text: &str| directed("loss", text))]
    link_loss: Vec<Directed>,

    /// Frames that later ones pass: SHARE or SHARE:TIME, such as 1%:3ms
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| directed("reorder", text))]
    link_reorder: Vec<Directed>,

    /// Frames that arrive twice
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| directed("duplicate", text))]
    link_duplicate: Vec<Directed>,

    /// Frames in which one bit is wrong
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| directed("corrupt", text))]
    link_corrupt: Vec<Directed>,

    /// How fast frames go: 100mbit, 56kbit, or none for as fast as the link is
    #[arg(long, value_name = "RATE", value_parser = |text: &str| directed("rate", text))]
    link_rate: Vec<Directed>,

    /// Frames that may wait for the rate; more are lost [default: 1000]
    #[arg(long, value_name = "FRAMES", value_parser = |text: &str| directed("queue", text))]
    link_queue: Vec<Directed>,

    /// Decides which frames are lost and so on, so that a run can be repeated; -v tells the one that was taken
    #[arg(long, value_name = "NUMBER")]
    link_seed: Option<u64>,
}

/// Which directions a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    Both,
    In,
    Out,
}

/// A fault and its directions.
#[derive(Clone, Copy, Debug)]
struct Directed(Ways, Fault);

fn directed(name: &str, text: &str) -> Result<Directed, ParseFaultError> {
    let (ways, value) = match text.split_once(':') {
        Some(("in", value)) => (Ways::In, value),
        Some(("out", value)) => (Ways::Out, value),
        _ => (Ways::Both, text),
    };
    Fault::parse(name, value).map(|fault| Directed(ways, fault))
}

impl FaultArgs {
    /// What the options say together.
    ///
    /// # Errors
    /// One line: what does not go together.
    pub(crate) fn wrappers(&self) -> Result<Wrappers, String> {
        let mut faults = LinkFaults::default();
        for Directed(ways, fault) in self.all() {
            if *ways != Ways::Out {
                faults.incoming.set(*fault);
            }
            if *ways != Ways::In {
                faults.outgoing.set(*fault);
            }
        }
        check("out", &faults.outgoing)?;
        check("in", &faults.incoming)?;
        // Also where there are none yet: 'netgraft link' brings them.
        let seed = self.link_seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        let mut wrappers = Wrappers::of_faults(faults, seed);
        wrappers.changeable = self.all().next().is_some() || self.link_seed.is_some();
        Ok(wrappers)
    }

    /// What a running link is to be told.
    pub(crate) fn change(&self, reset: bool) -> LinkChange {
        let mut change = LinkChange { reset, seed: self.link_seed, ..LinkChange::default() };
        for Directed(ways, fault) in self.all() {
            let ways = match ways {
                Ways::Both => [Some(&mut change.incoming), Some(&mut change.outgoing)],
                Ways::In => [Some(&mut change.incoming), None],
                Ways::Out => [None, Some(&mut change.outgoing)],
            };
            for text in ways.into_iter().flatten() {
                if !text.is_empty() {
                    text.push(',');
                }
                text.push_str(&fault.to_string());
            }
        }
        change
    }

    fn all(&self) -> impl Iterator<Item = &Directed> {
        let all = [
            &self.link_delay,
            &self.link_jitter,
            &self.link_loss,
            &self.link_reorder,
            &self.link_duplicate,
            &self.link_corrupt,
            &self.link_rate,
            &self.link_queue,
        ];
        all.into_iter().flatten()
    }
}

fn check(way: &str, faults: &Faults) -> Result<(), String> {
    faults.check().map_err(|error| {
        let option = match error {
            ParseFaultError::QueueAlone => "--link-queue",
            _ => "--link-jitter",
        };
        format!("{option}, {way}: {error}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use netgraft_plugin::faults::{Loss, Share};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        faults: FaultArgs,
    }

    fn parsed(line: &str) -> Result<Wrappers, String> {
        let line = std::iter::once("x").chain(line.split_ascii_whitespace());
        Line::try_parse_from(line).map_err(|e| e.to_string())?.faults.wrappers()
    }

    #[test]
    fn each_direction_has_its_own_faults() {
        let wrappers = parsed(
            "--link-delay 25ms --link-delay in:5ms --link-loss out:1% --link-jitter 1ms --link-rate in:1mbit \
             --link-queue in:9 --link-reorder out:2%:1ms --link-duplicate 3% --link-corrupt in:4% --link-seed 7",
        )
        .unwrap();
        assert_eq!(wrappers.seed, 7);
        let LinkFaults { incoming, outgoing } = wrappers.faults;
        let ms = Duration::from_millis;
        assert_eq!((incoming.delay, outgoing.delay), (ms(5), ms(25)));
        assert_eq!((incoming.jitter, outgoing.jitter), (ms(1), ms(1)));
        assert_eq!((incoming.loss, outgoing.loss), (Loss::None, Loss::Random(Share::from_percent(1))));
        assert_eq!((incoming.rate.map(|rate| rate.bits()), outgoing.rate), (Some(1_000_000), None));
        assert_eq!((incoming.queue, outgoing.queue), (9, Faults::QUEUE));
        assert_eq!((incoming.reorder, outgoing.reorder), (Share::NONE, Share::from_percent(2)));
        assert_eq!(
            (incoming.duplicate, outgoing.duplicate),
            (Share::from_percent(3), Share::from_percent(3))
        );
        assert_eq!((incoming.corrupt, outgoing.corrupt), (Share::from_percent(4), Share::NONE));
    }

    #[test]
    fn without_a_fault_there_is_no_wrapper() {
        assert!(parsed("").unwrap().is_none());
        // One of 0 has the link ready for others.
        for line in ["--link-loss 0%", "--link-seed 1"] {
            let wrappers = parsed(line).unwrap();
            assert!(wrappers.changeable && wrappers.faults.is_none(), "{line}");
        }
        // Two runs that name no seed are not alike, also where faults come later.
        assert_ne!(parsed("").unwrap().seed, parsed("").unwrap().seed);
        assert_ne!(parsed("--link-loss 1%").unwrap().seed, parsed("--link-loss 1%").unwrap().seed);
    }

    #[test]
    fn a_change_names_what_it_changes() {
        let line = "x --link-delay 25ms --link-loss out:1% --link-rate in:none --link-reorder in:1%:5ms --link-seed 7";
        let faults = Line::try_parse_from(line.split(' ')).unwrap().faults;
        let change = faults.change(true);
        assert_eq!(change.incoming, "delay=25ms,reorder=1%:5ms,rate=none");
        assert_eq!(change.outgoing, "delay=25ms,loss=1%");
        assert_eq!((change.reset, change.seed), (true, Some(7)));
        assert_eq!(FaultArgs::default().change(false), LinkChange::default());
    }
}
