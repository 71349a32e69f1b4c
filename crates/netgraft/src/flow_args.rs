//! The options about flows and metrics.

use std::path::PathBuf;

use clap::Args;
use netgraft::{FlowsSpec, MetricsAddress};

use crate::pcap_args::bytes;

/// Who talked to whom, and how much.
#[derive(Args)]
#[command(next_help_heading = "Flows and metrics")]
pub(crate) struct FlowArgs {
    /// Write a line of JSON in this file for each flow that is over or was denied: who, with whom, how much, by which rule, and
    /// how it ended
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,

    /// Begin another file, FILE.1 and so on, when one has so many bytes: 10M, 1G
    #[arg(long, value_name = "BYTES", requires = "flows", value_parser = bytes)]
    flows_size: Option<u64>,

    /// Keep so many files and remove the oldest of more
    #[arg(long, value_name = "COUNT", requires = "flows_size", value_parser = clap::value_parser!(u32).range(1..))]
    flows_keep: Option<u32>,

    /// Write the rules that the run needed in this file at its end, for --policy. What is denied by rules is denied, and a remark
    /// there
    #[arg(long, value_name = "FILE.toml")]
    learn: Option<PathBuf>,

    /// Serve what is counted as OpenMetrics text by HTTP while the sandbox runs: unix:PATH or ADDR:PORT of the host, such as
    /// 127.0.0.1:9100, which everybody can read who reaches the port
    #[arg(long, value_name = "PLACE")]
    pub(crate) metrics: Option<MetricsAddress>,
}

impl FlowArgs {
    /// What is to be written, if anything.
    pub(crate) fn spec(&self) -> Option<FlowsSpec> {
        let spec = FlowsSpec {
            file: self.flows.clone(),
            size: self.flows_size,
            keep: self.flows_keep,
            learn: self.learn.clone(),
        };
        (spec != FlowsSpec::default()).then_some(spec)
    }
}
