//! The options of `netgraft run` that are about the program and not about its network.

use clap::Args;
use netgraft::{ProgramSpec, Terminal};

#[derive(Args)]
pub(crate) struct ProgramArgs {
    /// Give the program a terminal of its own, which is shown at this one: it cannot see or reach the operator's
    #[arg(long)]
    pty: bool,
}

impl ProgramArgs {
    /// Puts what was asked for into a spec.
    pub(crate) fn apply(self, program: &mut ProgramSpec) {
        if self.pty {
            program.terminal = Terminal::Own;
        }
    }
}
