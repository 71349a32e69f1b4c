//! Workloads whose server and client are programs of others: redis and iperf3.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{Doing, Error, Result};
use crate::load::{Direction, Workload};
use crate::outcome::{Bounds, Latency, Outcome};
use crate::process::{Running, check_interrupt};

/// How long a tool's server may take until it accepts.
const READY: Duration = Duration::from_secs(10);

/// Runs one of the tools' workloads on the address `on`.
///
/// # Errors
/// The tool is not installed, fails, or prints something else than it should.
pub(crate) fn run(workload: &Workload, on: IpAddr, bounds: Bounds) -> Result<Outcome> {
    match *workload {
        Workload::Redis { connections, pipeline } => redis(on, connections, pipeline, bounds),
        Workload::Iperf3 { direction, streams } => iperf3(on, direction, streams, bounds),
        _ => Err(Error::Failed("this workload has a server and a client of its own".to_owned())),
    }
}

/// `timeout SECONDS PROGRAM`: a server that ends even if this process is killed.
fn bounded(program: &str, bounds: Bounds) -> Command {
    let mut command = Command::new("timeout");
    let seconds = bounds.time.as_secs() + 60;
    command.args(["-k", "1", &seconds.to_string(), program]);
    command
}

/// A port that is free now. Somebody may take it before the server does, which then says so.
fn free_port(on: IpAddr) -> Result<u16> {
    let listener = TcpListener::bind((on, 0)).doing(|| format!("looking for a free port on {on}"))?;
    listener.local_addr().map(|address| address.port()).doing(|| "asking for a free port's number")
}

fn redis(on: IpAddr, connections: u32, pipeline: u32, bounds: Bounds) -> Result<Outcome> {
    let port = free_port(on)?.to_string();
    let (host, directory) = (on.to_string(), std::env::temp_dir());
    let mut command = bounded("redis-server", bounds);
    command.args(["--port", &port, "--bind", &host, "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.arg("--dir").arg(directory);
    let mut server = Running::spawn("redis-server", &mut command)?;
    let address: SocketAddr = format_address(on, &port)?;
    let until = Instant::now() + READY;
    while let Err(error) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        check_interrupt()?;
        if server.has_ended()? || Instant::now() >= until {
            return Err(error).doing(|| format!("waiting for redis-server at {address}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // redis-benchmark is bounded by a count: a short run tells how many fill the time.
    let benchmark = |count: u64| -> Result<Outcome> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", &host, "-p", &port, "-t", "get", "--csv", "-c", &connections.to_string()]);
        command.args(["-P", &pipeline.to_string(), "-n", &count.to_string()]);
        let patience = bounds.time * 10 + Duration::from_secs(30);
        let lines = Running::spawn("redis-benchmark", &mut command)?.finish(Instant::now() + patience)?;
        redis_outcome(&lines, count)
    };
    let sample = benchmark(u64::from(connections) * u64::from(pipeline) * 40)?;
    let count = (sample.rate * bounds.time.as_secs_f64()).ceil() as u64;
    let outcome = benchmark(count.clamp(1, bounds.count))?;
    // It doesn't end by itself, so dropping it ends it.
    drop(server);
    Ok(outcome)
}

fn format_address(on: IpAddr, port: &str) -> Result<SocketAddr> {
    let port = port.parse().map_err(|_| Error::Failed(format!("{port:?} is no port")))?;
    Ok(SocketAddr::new(on, port))
}

/// Reads `redis-benchmark --csv`: a line of names and a line of values, all in quotes.
fn redis_outcome(lines: &[String], count: u64) -> Result<Outcome> {
    let fields =
        |line: &str| line.split(',').map(|field| field.trim_matches('"').to_owned()).collect::<Vec<_>>();
    let names = lines.iter().position(|line| line.starts_with("\"test\""));
    let values = names.and_then(|place| lines.get(place + 1));
    let (Some(names), Some(values)) =
        (names.map(|place| fields(&lines[place])), values.map(|line| fields(line)))
    else {
        return Err(Error::Failed(format!("redis-benchmark printed no table but {lines:?}")));
    };
    let value = |wanted: &str| -> Result<f64> {
        let place = names.iter().position(|name| name == wanted);
        let value = place.and_then(|place| values.get(place)).and_then(|value| value.parse().ok());
        value.ok_or_else(|| Error::Failed(format!("redis-benchmark printed no {wanted}")))
    };
    let rate = value("rps")?;
    if rate <= 0.0 {
        return Err(Error::Failed("redis-benchmark counted nothing".to_owned()));
    }
    let microseconds = |name| value(name).map(|milliseconds| milliseconds * 1000.0);
    let latency = Latency {
        p50: microseconds("p50_latency_ms")?,
        p90: None,
        p99: microseconds("p99_latency_ms")?,
        p999: None,
        max: microseconds("max_latency_ms")?,
    };
    let unit = "requests/s".to_owned();
    Ok(Outcome {
        rate,
        unit,
        operations: count,
        seconds: count as f64 / rate,
        latency: Some(latency),
        lost: 0,
    })
}

fn iperf3(on: IpAddr, direction: Direction, streams: u32, bounds: Bounds) -> Result<Outcome> {
    let (port, host) = (free_port(on)?.to_string(), on.to_string());
    let mut command = bounded("iperf3", bounds);
    command.args(["--server", "--one-off", "--forceflush", "--bind", &host, "--port", &port]);
    let mut server = Running::spawn("the iperf3 server", &mut command)?;
    // A connection to try whether it is there would be its one client.
    let until = Instant::now() + READY;
    while !server.next_line(until)?.contains("listening") {}
    let mut command = Command::new("iperf3");
    let seconds = bounds.time.as_secs_f64().ceil().max(1.0);
    command.args(["--client", &host, "--port", &port, "--json", "--interval", "0"]);
    command.args(["--time", &format!("{seconds:.0}"), "--parallel", &streams.to_string()]);
    if direction == Direction::In {
        command.arg("--reverse");
    }
    let patience = Duration::from_secs_f64(seconds) + Duration::from_secs(20);
    let lines = Running::spawn("the iperf3 client", &mut command)?.finish(Instant::now() + patience)?;
    server.finish(Instant::now() + READY)?;
    iperf3_outcome(&lines.join("\n"))
}

/// Reads `iperf3 --json`.
fn iperf3_outcome(json: &str) -> Result<Outcome> {
    #[derive(Deserialize)]
    struct Whole {
        end: End,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Sum,
    }
    #[derive(Deserialize)]
    struct Sum {
        seconds: f64,
        bytes: u64,
        bits_per_second: f64,
    }
    let whole: Whole = serde_json::from_str(json)
        .map_err(|error| Error::Failed(format!("iperf3 printed no report that can be read: {error}")))?;
    let Sum { seconds, bytes, bits_per_second } = whole.end.sum_received;
    if bytes == 0 {
        return Err(Error::Failed("iperf3 transferred nothing".to_owned()));
    }
    let (rate, unit) = (bits_per_second / 1e9, "Gbit/s".to_owned());
    Ok(Outcome { rate, unit, operations: bytes, seconds, latency: None, lost: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_redis_is_read() {
        let lines = [
            r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms""#,
            r#""GET","50000.00","0.3","0.1","0.255","0.5","0.75","1.5""#,
        ]
        .map(str::to_owned);
        let outcome = redis_outcome(&lines, 1000).unwrap();
        assert_eq!((outcome.rate, outcome.seconds), (50_000.0, 0.02));
        assert_eq!(outcome.latency.unwrap().p99, 750.0);
        assert!(redis_outcome(&lines[..1], 1000).is_err());
        assert!(redis_outcome(&[], 1000).is_err());
    }

    #[test]
    fn the_report_of_iperf3_is_read() {
        let json = r#"{"end":{"sum_received":{"seconds":2.0,"bytes":500,"bits_per_second":2e9}}}"#;
        let outcome = iperf3_outcome(json).unwrap();
        assert_eq!((outcome.rate, outcome.operations), (2.0, 500));
        assert!(iperf3_outcome("{\"error\": \"no\"}").is_err());
    }
}
