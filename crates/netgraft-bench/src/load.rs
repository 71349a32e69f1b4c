//! The workloads, and the named cases that a comparison runs.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::wire::MAX_MESSAGE;

/// What is measured. On the command line each is a subcommand with its own options.
#[derive(Clone, Debug, PartialEq, Subcommand, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Request and reply over TCP in a closed loop, as redis and its clients do
    Request {
        /// Connections that each have a request under way
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
        connections: u32,
        /// Bytes of a request
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MESSAGE)))]
        request_size: u32,
        /// Bytes of a reply
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MESSAGE)))]
        reply_size: u32,
        /// Requests that are sent at once before the replies are waited for
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        pipeline: u32,
    },
    /// Requests on some connections while many others are open and silent
    Idle {
        /// Connections that each have a request under way
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=4096))]
        connections: u32,
        /// Connections that are open and silent
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=28_000))]
        idle: u32,
    },
    /// One or more TCP streams at full speed
    Bulk {
        /// Which way the bytes go, as the client sees it
        #[arg(long, value_enum, default_value_t = Direction::In)]
        direction: Direction,
        /// Connections at the same time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
        streams: u32,
    },
    /// Connect, one byte each way, close
    Connect {
        /// Connections that are being made at the same time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
        connections: u32,
    },
    /// Request and reply in datagrams; one that isn't answered in 100 ms is counted as lost
    Udp {
        /// Sockets that each have a request under way
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
        connections: u32,
        /// Bytes of a datagram
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=65_507))]
        size: u32,
    },
    /// socket() and close(), nothing else
    Control,
    /// redis-server and redis-benchmark, GET of an absent key; only as a pair
    Redis {
        /// Clients
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=4096))]
        connections: u32,
        /// Requests that are sent at once
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        pipeline: u32,
    },
    /// iperf3, TCP; only as a pair
    Iperf3 {
        /// Which way the bytes go, as the client sees it
        #[arg(long, value_enum, default_value_t = Direction::In)]
        direction: Direction,
        /// Connections at the same time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
        streams: u32,
    },
}

/// Which way the bytes of a bulk transfer go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// From the server to the client
    In,
    /// From the client to the server
    Out,
}

/// Which protocol the server has to serve for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// Who plays server and client for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    /// This crate's own server and client.
    Own(Protocol),
    /// The client alone.
    Alone,
    /// Programs of others.
    Tools,
}

impl Workload {
    /// Who plays server and client.
    pub(crate) fn peers(&self) -> Peers {
        match self {
            Self::Request { .. } | Self::Idle { .. } | Self::Bulk { .. } | Self::Connect { .. } => {
                Peers::Own(Protocol::Tcp)
            }
            Self::Udp { .. } => Peers::Own(Protocol::Udp),
            Self::Control => Peers::Alone,
            Self::Redis { .. } | Self::Iperf3 { .. } => Peers::Tools,
        }
    }

    /// The words that make the command line say this workload again.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let direction_word = |direction: &Direction| match direction {
            Direction::In => "in".to_owned(),
            Direction::Out => "out".to_owned(),
        };
        let (name, options): (&str, Vec<(&str, String)>) = match self {
            Self::Request { connections, request_size, reply_size, pipeline } => (
                "request",
                vec![
                    ("--connections", connections.to_string()),
                    ("--request-size", request_size.to_string()),
                    ("--reply-size", reply_size.to_string()),
                    ("--pipeline", pipeline.to_string()),
                ],
            ),
            Self::Idle { connections, idle } => {
                ("idle", vec![("--connections", connections.to_string()), ("--idle", idle.to_string())])
            }
            Self::Bulk { direction, streams } => {
                ("bulk", vec![("--direction", direction_word(direction)), ("--streams", streams.to_string())])
            }
            Self::Connect { connections } => ("connect", vec![("--connections", connections.to_string())]),
            Self::Udp { connections, size } => {
                ("udp", vec![("--connections", connections.to_string()), ("--size", size.to_string())])
            }
            Self::Control => ("control", vec![]),
            Self::Redis { connections, pipeline } => (
                "redis",
                vec![("--connections", connections.to_string()), ("--pipeline", pipeline.to_string())],
            ),
            Self::Iperf3 { direction, streams } => (
                "iperf3",
                vec![("--direction", direction_word(direction)), ("--streams", streams.to_string())],
            ),
        };
        let mut words = vec![name.to_owned()];
        words.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        words
    }
}

/// What one row of a comparison does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    /// A server and a client.
    Load(Workload),
    /// Starting `true` so many times, one after the other.
    StartUp { times: u32 },
}

/// One row of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Case {
    /// The family, which selects all its cases, for instance `request`.
    pub(crate) family: &'static str,
    /// The full name, for instance `request-50`.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) task: Task,
}

/// All the cases there are, in the order of the table.
pub(crate) fn cases() -> Vec<Case> {
    let request =
        |connections, pipeline| Workload::Request { connections, request_size: 40, reply_size: 16, pipeline };
    let bulk = |direction, streams| Workload::Bulk { direction, streams };
    let iperf3 = |direction| Workload::Iperf3 { direction, streams: 1 };
    let load = |family, name, workload| Case { family, name, task: Task::Load(workload) };
    vec![
        load("request", "request-1", request(1, 1)),
        load("request", "request-50", request(50, 1)),
        load("request", "request-50-pipeline-16", request(50, 16)),
        load("bulk", "bulk-in", bulk(Direction::In, 1)),
        load("bulk", "bulk-out", bulk(Direction::Out, 1)),
        load("bulk", "bulk-in-4", bulk(Direction::In, 4)),
        load("bulk", "bulk-out-4", bulk(Direction::Out, 4)),
        load("connect", "connect-1", Workload::Connect { connections: 1 }),
        load("connect", "connect-50", Workload::Connect { connections: 50 }),
        load("udp", "udp-1", Workload::Udp { connections: 1, size: 64 }),
        load("udp", "udp-50", Workload::Udp { connections: 50, size: 64 }),
        load("control", "control", Workload::Control),
        load("idle", "idle-1000", Workload::Idle { connections: 50, idle: 1000 }),
        load("redis", "redis-1", Workload::Redis { connections: 1, pipeline: 1 }),
        load("redis", "redis-50", Workload::Redis { connections: 50, pipeline: 1 }),
        load("redis", "redis-50-pipeline-16", Workload::Redis { connections: 50, pipeline: 16 }),
        load("iperf3", "iperf3-in", iperf3(Direction::In)),
        load("iperf3", "iperf3-out", iperf3(Direction::Out)),
        Case { family: "start-up", name: "start-up", task: Task::StartUp { times: 20 } },
    ]
}

/// The cases that the words select, each word a family or a full name, in the order of the table.
///
/// # Errors
/// The word that selects nothing.
pub(crate) fn select(words: &[String]) -> Result<Vec<Case>, String> {
    let all = cases();
    let selects = |word: &str, case: &Case| word == case.family || word == case.name;
    if let Some(unknown) = words.iter().find(|word| !all.iter().any(|case| selects(word, case))) {
        let names: Vec<_> = all.iter().map(|case| case.name).collect();
        return Err(format!("there is no workload {unknown:?}; there are: {}", names.join(", ")));
    }
    Ok(all.into_iter().filter(|case| words.iter().any(|word| selects(word, case))).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        workload: Workload,
    }

    #[test]
    fn every_case_survives_the_command_line() {
        for case in cases() {
            let Task::Load(workload) = case.task else { continue };
            let words = std::iter::once("bench".to_owned()).chain(workload.to_arguments());
            assert_eq!(Line::parse_from(words).workload, workload);
        }
    }

    #[test]
    fn names_select_cases_and_families() {
        let names = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            select(&words).map(|cases| cases.into_iter().map(|case| case.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["control", "request-50"]).unwrap(), ["request-50", "control"]);
        assert_eq!(names(&["connect", "connect-1"]).unwrap(), ["connect-1", "connect-50"]);
        assert!(names(&["requests"]).unwrap_err().contains("no workload \"requests\""));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases().len());
    }
}
