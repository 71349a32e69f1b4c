//! `netgraft link SANDBOX`: the faults of a sandbox's link, shown and changed while it runs.

use std::collections::BTreeMap;

use clap::Args;
use netgraft_launch::operator::{Answer, Direction, LinkState, Request};
use netgraft_plugin::faults::Faults;
use serde::Serialize;

use super::{Client, table};
use crate::fault_args::FaultArgs;

#[derive(Args, Debug)]
pub(crate) struct LinkArgs {
    /// The sandbox, as 'netgraft list' names it
    pub(crate) sandbox: String,

    /// End all faults, before those that are given with it begin
    #[arg(long)]
    pub(crate) reset: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) faults: FaultArgs,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Shown {
    r#in: Way,
    out: Way,
    seed: u64,
}

/// One direction.
#[derive(Serialize)]
struct Way {
    faults: BTreeMap<&'static str, String>,
    frames: u64,
    overflowed: u64,
    lost: u64,
    corrupted: u64,
    duplicated: u64,
    reordered: u64,
}

/// The text of `netgraft link`.
pub(crate) fn link(args: &LinkArgs) -> Result<String, String> {
    let mut client = Client::connect(&args.sandbox)?;
    client.ask(Request::Link(args.faults.change(args.reset)))?;
    let Answer::Link(state) = client.next()? else { return Err(super::unexpected()) };
    if args.json {
        let shown = Shown { r#in: way(&state.incoming)?, out: way(&state.outgoing)?, seed: state.seed };
        let text = serde_json::to_string_pretty(&shown).map_err(|error| error.to_string())?;
        return Ok(format!("{text}\n"));
    }
    text(&state)
}

/// The faults of a direction, which are read: a sentry may have sent anything.
fn faults(direction: &Direction) -> Result<Faults, String> {
    direction.faults.parse().map_err(|_| super::unexpected())
}

fn way(direction: &Direction) -> Result<Way, String> {
    Ok(Way {
        faults: faults(direction)?.all().map(|fault| (fault.name(), fault.value())).collect(),
        frames: direction.frames,
        overflowed: direction.overflowed,
        lost: direction.lost,
        corrupted: direction.corrupted,
        duplicated: direction.duplicated,
        reordered: direction.reordered,
    })
}

fn text(state: &LinkState) -> Result<String, String> {
    let heads = ["", "Frames", "Overflowed", "Lost", "Corrupted", "Duplicated", "Reordered", "Faults"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for (name, direction) in [("in", &state.incoming), ("out", &state.outgoing)] {
        let faults = faults(direction)?;
        let mut named: Vec<String> =
            faults.all().map(|fault| format!("{} {}", fault.name(), fault.value())).collect();
        if named.is_empty() {
            named.push("none".to_owned());
        }
        let counts = [
            direction.frames,
            direction.overflowed,
            direction.lost,
            direction.corrupted,
            direction.duplicated,
            direction.reordered,
        ];
        let mut row = vec![name.to_owned()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(named.join(", "));
        rows.push(row);
    }
    Ok(format!("{}seed {}\n", table(&rows), state.seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_shown_as_they_are_given() {
        let direction = |faults: &str| Direction {
            faults: faults.to_owned(),
            frames: 10,
            overflowed: 0,
            lost: 2,
            corrupted: 0,
            duplicated: 0,
            reordered: 0,
        };
        let mut state =
            LinkState { incoming: direction("none"), outgoing: direction("delay=25ms,loss=1%"), seed: 7 };
        let text = text(&state).unwrap();
        assert_eq!(
            text,
            "     Frames  Overflowed  Lost  Corrupted  Duplicated  Reordered  Faults\n\
             in   10      0           2     0          0           0          none\n\
             out  10      0           2     0          0           0          delay 25ms, loss 1%\n\
             seed 7\n"
        );
        // What a hostile sentry calls faults is not printed.
        state.incoming = direction("\u{1b}[2J");
        assert!(super::text(&state).is_err() && way(&state.incoming).is_err());
    }
}
