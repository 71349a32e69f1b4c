//! The options of a capture.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use netgraft::{CaptureOutput, CaptureSpec};
use netgraft_linux::process;

/// A capture of the stack's frames.
#[derive(Args)]
#[command(next_help_heading = "Capture")]
pub(crate) struct PcapArgs {
    /// Record what the stack sends and receives, on its link and its loopback, in this file, which tcpdump and Wireshark
    /// read (pcapng); - is standard output, and the program's own output then goes to standard error
    #[arg(long, value_name = "FILE")]
    pcap: Option<OsString>,

    /// Bytes of each frame that are kept [default: all]
    #[arg(long, value_name = "BYTES", requires = "pcap", value_parser = clap::value_parser!(u32).range(1..))]
    pcap_snaplen: Option<u32>,

    /// Begin another file, FILE.1 and so on, when one has so many bytes: 10M, 1G
    #[arg(long, value_name = "BYTES", requires = "pcap", value_parser = bytes)]
    pcap_size: Option<u64>,

    /// Begin another file when one is so many seconds old
    #[arg(long, value_name = "SECONDS", requires = "pcap", value_parser = clap::value_parser!(u32).range(1..))]
    pcap_time: Option<u32>,

    /// Keep so many files and remove the oldest of more
    #[arg(long, value_name = "COUNT", requires = "pcap", value_parser = clap::value_parser!(u32).range(1..))]
    pcap_keep: Option<u32>,
}

/// A number of bytes with k, M or G behind it for 1,000, 1,000,000 or 1,000,000,000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let unit = match unit {
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => 1,
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes >= 1000)
        .ok_or_else(|| "expected 1000 bytes or more, such as 500k, 10M or 1G".into())
}

impl PcapArgs {
    /// The capture that the options ask for. With one to standard output, this process's standard output is its standard
    /// error from then on.
    ///
    /// # Errors
    /// One line: options that do not go together, or that standard output is closed.
    pub(crate) fn spec(&self) -> Result<Option<CaptureSpec>, String> {
        let Some(file) = &self.pcap else { return Ok(None) };
        let several = self.pcap_size.is_some() || self.pcap_time.is_some();
        if self.pcap_keep.is_some() && !several {
            return Err("--pcap-keep is for several files: give --pcap-size or --pcap-time".to_owned());
        }
        let output = if file == "-" {
            if several {
                return Err("--pcap - is one stream: leave --pcap-size and --pcap-time out".to_owned());
            }
            let closed = |e: io::Error| format!("--pcap -: standard output cannot be used: {e}");
            let fd = io::stdout().as_fd().try_clone_to_owned().map_err(closed)?;
            process::replace_stdout(io::stderr().as_fd()).map_err(closed)?;
            CaptureOutput::Open(Arc::new(fd))
        } else {
            CaptureOutput::File(file.into())
        };
        Ok(Some(CaptureSpec {
            output,
            snap: self.pcap_snaplen.unwrap_or(0),
            size: self.pcap_size,
            time: self.pcap_time.map(|seconds| Duration::from_secs(u64::from(seconds))),
            keep: self.pcap_keep,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pcap: PcapArgs,
    }

    fn parsed(line: &str) -> Result<Option<CaptureSpec>, String> {
        let line = std::iter::once("x").chain(line.split_ascii_whitespace());
        Line::try_parse_from(line).map_err(|e| e.to_string())?.pcap.spec()
    }

    #[test]
    fn a_capture_has_a_file_and_bounds() {
        assert!(parsed("").unwrap().is_none());
        let spec = parsed("--pcap a.pcapng --pcap-snaplen 96 --pcap-size 10M --pcap-time 60 --pcap-keep 3")
            .unwrap()
            .unwrap();
        assert!(matches!(spec.output, CaptureOutput::File(path) if path.as_os_str() == "a.pcapng"));
        assert_eq!((spec.snap, spec.size, spec.keep), (96, Some(10_000_000), Some(3)));
        assert_eq!(spec.time, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (line, part) in [
            ("--pcap x --pcap-keep 2", "give --pcap-size or --pcap-time"),
            ("--pcap - --pcap-size 1M", "one stream"),
            ("--pcap-size 1M", "--pcap"),
            ("--pcap x --pcap-size 10", "1000 bytes or more"),
            ("--pcap x --pcap-size 99999999999G", "1000 bytes or more"),
            ("--pcap x --pcap-snaplen 0", "0 is not in"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
