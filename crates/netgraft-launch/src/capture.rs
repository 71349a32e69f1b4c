//! The process that writes a capture.
//!
//! The sentry has no file system, so a process with the caller's rights takes whole blocks of pcapng from it
//! ([`netgraft_link::pcap`]) and writes them. It ends when every sender is gone, however that came, so that the file is
//! whole after a kill of anything. What the sentry sends is checked: it may be a stack that was taken over.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netgraft_link::pcap::{Part, STATISTICS_LEN, block_at};
use netgraft_linux::process::{self, Wait};
use netgraft_linux::{confine, fdpass, unix};
use netgraft_plugin::config::CaptureConfig;

use crate::clock;
use crate::error::RunError;

/// How long the launcher waits for the last blocks to be written.
const LAST: Duration = Duration::from_secs(5);
/// The most bytes of one message.
const MESSAGE: usize = 1 << 20;
/// A reader of standard output sees what there is after so much time without more.
const QUIET: Duration = Duration::from_millis(50);

/// Where a capture goes, and how much of it.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// Where it is written.
    pub output: CaptureOutput,
    /// Bytes of each frame that are kept; 0 for all.
    pub snap: u32,
    /// A file that has so many bytes is followed by the next.
    pub size: Option<u64>,
    /// A file that is so old is followed by the next.
    pub time: Option<Duration>,
    /// How many files are kept, the oldest of more being removed; `None` for all.
    pub keep: Option<u32>,
}

/// Where a capture is written.
#[derive(Clone, Debug)]
pub enum CaptureOutput {
    /// To a file that is made anew. Later ones have a number behind its name.
    File(PathBuf),
    /// To a descriptor, such as that of standard output.
    Open(Arc<OwnedFd>),
}

impl CaptureOutput {
    fn text(&self) -> String {
        match self {
            CaptureOutput::File(path) => path.display().to_string(),
            CaptureOutput::Open(_) => "-".to_owned(),
        }
    }
}

/// A capture that is being written. Dropping it waits for the last blocks; the sandbox has ended by then.
#[derive(Debug)]
pub(crate) struct Capture {
    writer: i32,
}

impl Capture {
    /// Opens the file and starts the writer, before anything else of the sandbox is made: the writer has none of its
    /// descriptors. What is answered goes to the sentry.
    ///
    /// # Errors
    /// [`RunError::Options`] if the file cannot be made, [`RunError::Step`].
    pub(crate) fn start(spec: &CaptureSpec) -> Result<(Capture, OwnedFd, CaptureConfig), RunError> {
        let failed = |e: io::Error| {
            RunError::Options(format!("the capture {} cannot be written: {e}", spec.output.text()))
        };
        let mut files = Files::open(spec).map_err(failed)?;
        let (ours, theirs) = fdpass::pair().map_err(failed)?;
        unix::set_nonblocking(theirs.as_fd(), true).map_err(failed)?;
        let writer = process::fork(|| {
            let result = confine::set_name(c"netgraft-pcap")
                // Standard error is for what it has to say.
                .and_then(|()| process::close_all_but(&[2, ours.as_raw_fd(), files.descriptor()]))
                .and_then(|()| files.write_all(&ours));
            if let Err(error) = result {
                tracing::warn!("the capture {} ends here: {error}", spec.output.text());
                return 1;
            }
            0
        })
        .map_err(failed)?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = since_1970.saturating_sub(Duration::from_nanos(clock::now().nanos()));
        let epoch = u64::try_from(epoch.as_nanos()).unwrap_or(u64::MAX);
        Ok((Capture { writer }, theirs, CaptureConfig { snap: spec.snap, epoch }))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let until = Instant::now() + LAST;
        while matches!(process::wait(self.writer, Wait::Look), Ok(None)) {
            if Instant::now() >= until {
                tracing::warn!("the capture is still being written by the process {}", self.writer);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The files of a capture.
struct Files {
    output: CaptureOutput,
    size: Option<u64>,
    time: Option<Duration>,
    keep: Option<u32>,
    file: BufWriter<File>,
    /// Bytes of the file and when it was begun.
    written: u64,
    begun: Instant,
    /// The number of the file.
    number: u32,
    /// Those that are kept.
    kept: VecDeque<PathBuf>,
    /// The blocks that each file begins with.
    head: Vec<u8>,
    /// Interfaces of the section, whose statistics may follow.
    interfaces: u64,
    tally: Tally,
}

/// What is missing in a capture. It has a section for each sentry.
#[derive(Debug, Default)]
struct Tally {
    /// Frames that are missing in the sections before this one.
    missing: u64,
    /// What this section's frames say that is missing before them.
    seen: u64,
    /// What its end says that is missing in all.
    told: Option<u64>,
    /// Whether this section has interfaces: without one it has no frames, and no end.
    begun: bool,
    /// Whether a section had no end.
    cut: bool,
}

impl Tally {
    fn part(&mut self, part: Part) {
        match part {
            Part::Section => self.end_section(),
            Part::Interface => self.begun = true,
            Part::Frame { missing } => self.seen = self.seen.saturating_add(missing),
            Part::Statistics { missing } => self.told = Some(self.told.unwrap_or(0).saturating_add(missing)),
        }
    }

    fn end_section(&mut self) {
        // The end counts what the frames have said, too.
        let missing = self.told.take().unwrap_or_else(|| {
            self.cut |= self.begun;
            self.seen
        });
        self.missing = self.missing.saturating_add(missing);
        (self.seen, self.begun) = (0, false);
    }
}

impl Files {
    fn open(spec: &CaptureSpec) -> io::Result<Files> {
        let (file, kept) = match &spec.output {
            CaptureOutput::File(path) => (create(path)?, VecDeque::from([path.clone()])),
            CaptureOutput::Open(fd) => (File::from(fd.try_clone()?), VecDeque::new()),
        };
        Ok(Files {
            output: spec.output.clone(),
            size: spec.size,
            time: spec.time,
            keep: spec.keep,
            file: BufWriter::with_capacity(MESSAGE, file),
            written: 0,
            begun: Instant::now(),
            number: 0,
            kept,
            head: Vec::new(),
            interfaces: 0,
            tally: Tally::default(),
        })
    }

    fn descriptor(&self) -> i32 {
        self.file.get_ref().as_raw_fd()
    }

    /// Writes what comes until every sender is gone, and says what is missing.
    fn write_all(&mut self, from: &OwnedFd) -> io::Result<()> {
        self.receive_all(from)?;
        self.tally.end_section();
        self.doubts().iter().for_each(|text| tracing::warn!("{text}"));
        Ok(())
    }

    fn receive_all(&mut self, from: &OwnedFd) -> io::Result<()> {
        loop {
            if fdpass::wait_readable([Some(from.as_fd())], Some(QUIET))? != [true] {
                self.file.flush()?;
                fdpass::wait_readable([Some(from.as_fd())], None)?;
            }
            let message = match fdpass::receive(from.as_fd(), MESSAGE) {
                Ok(Some((message, _))) => message,
                Ok(None) => break,
                // The sentry was killed.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
                Err(e) => return Err(e),
            };
            let mut rest = message.as_slice();
            while !rest.is_empty() {
                let (len, part) =
                    block_at(rest).ok_or_else(|| io::Error::other("the stack sent what is no frame"))?;
                let (block, behind) = rest.split_at(len);
                self.block(block, part)?;
                rest = behind;
            }
        }
        self.file.flush()
    }

    /// What the capture lacks, for the user.
    fn doubts(&self) -> Vec<String> {
        let (name, missing) = (self.output.text(), self.tally.missing);
        let mut doubts = Vec::new();
        if missing > 0 {
            let what = if missing == 1 { "1 frame is" } else { &format!("{missing} frames are") };
            doubts.push(format!(
                "{what} missing in the capture {name}: they came faster than it could be written"
            ));
        }
        if self.tally.cut {
            doubts.push(format!(
                "the capture {name} may lack its last frames: its sentry was ended before it had sent them"
            ));
        }
        doubts
    }

    fn block(&mut self, block: &[u8], part: Part) -> io::Result<()> {
        self.tally.part(part);
        match part {
            Part::Section => {
                self.head.clear();
                self.head.extend_from_slice(block);
                self.interfaces = 0;
            }
            Part::Interface => {
                self.head.extend_from_slice(block);
                self.interfaces += 1;
            }
            Part::Statistics { .. } => {}
            Part::Frame { .. } => {
                // The statistics have their place in the last file.
                let len = block.len() as u64 + self.interfaces.saturating_mul(STATISTICS_LEN);
                let full = self.size.is_some_and(|size| self.written + len > size);
                if full || self.time.is_some_and(|time| self.begun.elapsed() >= time) {
                    self.next_file()?;
                }
            }
        }
        self.written += block.len() as u64;
        self.file.write_all(block)
    }

    fn next_file(&mut self) -> io::Result<()> {
        // A descriptor has no next one, and a file without a frame needs none.
        let CaptureOutput::File(path) = &self.output else { return Ok(()) };
        if self.written <= self.head.len() as u64 {
            return Ok(());
        }
        self.number += 1;
        let path = numbered(path, self.number);
        self.file.flush()?;
        self.file = BufWriter::with_capacity(MESSAGE, create(&path)?);
        self.file.write_all(&self.head)?;
        (self.written, self.begun) = (self.head.len() as u64, Instant::now());
        self.kept.push_back(path);
        while self.keep.is_some_and(|keep| self.kept.len() > keep as usize) {
            if let Some(oldest) = self.kept.pop_front() {
                fs::remove_file(oldest)?;
            }
        }
        Ok(())
    }
}

/// A capture is nobody else's: it has what was said.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use netgraft_link::Way;
    use netgraft_link::pcap::Recorder;
    use netgraft_plugin::link::Medium;

    use super::*;

    fn files(dir: &Path) -> Vec<(String, u64)> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let mut all: Vec<_> =
            entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())).collect();
        all.sort();
        all
    }

    #[test]
    fn files_follow_each_other_and_each_begins_with_its_interfaces() {
        let dir = std::env::temp_dir().join(format!("netgraft-capture-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let spec = CaptureSpec {
            output: CaptureOutput::File(dir.join("x.pcapng")),
            snap: 0,
            size: Some(1000),
            time: None,
            keep: Some(2),
        };
        let mut files_of = Files::open(&spec).unwrap();
        let (ours, theirs) = fdpass::pair().unwrap();
        let recorder = Recorder::new(theirs, CaptureConfig { snap: 0, epoch: 0 });
        let on = recorder.interface("eth0", Medium::Ip);
        for _ in 0..30 {
            recorder.frame(on, Way::Out, netgraft_plugin::Instant::ZERO, &[7; 100]);
        }
        recorder.flush(netgraft_plugin::Instant::ZERO);
        drop(recorder);
        files_of.write_all(&ours).unwrap();
        let left = files(&dir);
        assert_eq!(left.len(), 2, "{left:?}");
        let mut frames = 0;
        for (name, len) in &left {
            assert!(name.starts_with("x.pcapng.") && *len <= 1000, "{left:?}");
            let bytes = fs::read(dir.join(name)).unwrap();
            let (mut rest, mut parts) = (bytes.as_slice(), Vec::new());
            while !rest.is_empty() {
                let (len, part) = block_at(rest).unwrap();
                parts.push(part);
                rest = &rest[len..];
            }
            assert_eq!(parts[..2], [Part::Section, Part::Interface]);
            frames += parts.len() - 2;
        }
        assert!((6..=12).contains(&frames), "{frames}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_that_is_old_enough_is_followed_by_the_next() {
        let dir = std::env::temp_dir().join(format!("netgraft-capture-time-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (time, count) in [(Duration::ZERO, 3), (Duration::from_secs(1 << 30), 1)] {
            let output = CaptureOutput::File(dir.join(format!("x{count}")));
            let spec = CaptureSpec { output, snap: 0, size: None, time: Some(time), keep: None };
            let mut files_of = Files::open(&spec).unwrap();
            let (ours, theirs) = fdpass::pair().unwrap();
            let recorder = Recorder::new(theirs, CaptureConfig { snap: 0, epoch: 0 });
            let on = recorder.interface("eth0", Medium::Ip);
            for _ in 0..3 {
                recorder.frame(on, Way::Out, netgraft_plugin::Instant::ZERO, &[7; 100]);
            }
            recorder.flush(netgraft_plugin::Instant::ZERO);
            drop(recorder);
            files_of.write_all(&ours).unwrap();
            let left = files(&dir);
            let named: Vec<_> =
                left.iter().filter(|(name, _)| name.starts_with(&format!("x{count}"))).collect();
            // None without a frame, and each with one.
            assert_eq!(named.len(), count, "{left:?}");
            assert!(named.iter().all(|(_, len)| *len == named[0].1), "{left:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_a_capture_lacks_is_told() {
        use netgraft_plugin::Instant;
        use netgraft_plugin::recording::Recording;
        let path = std::env::temp_dir().join(format!("netgraft-lacks-{}", std::process::id()));
        let output = CaptureOutput::File(path.clone());
        let spec = CaptureSpec { output, snap: 0, size: None, time: None, keep: None };
        let config = || CaptureConfig { snap: 0, epoch: 0 };
        // Two sections, as after a restart; the last has an end or not. Frames are too many for the socket.
        let doubts = |frames: usize, is_first_cut: bool, is_second_cut: bool| {
            let mut files = Files::open(&spec).unwrap();
            for is_cut in [is_first_cut, is_second_cut] {
                let (ours, theirs) = fdpass::pair().unwrap();
                let mut recorder = Recorder::new(theirs, config());
                let on = recorder.interface("eth0", Medium::Ip);
                for _ in 0..frames {
                    recorder.frame(on, Way::Out, Instant::ZERO, &[7; 60_000]);
                }
                recorder.flush(Instant::ZERO);
                if !is_cut {
                    recorder.end(Instant::ZERO);
                }
                drop(recorder);
                files.receive_all(&ours).unwrap();
            }
            files.tally.end_section();
            files.doubts()
        };
        assert_eq!(doubts(1, false, false), [""; 0]);
        for (first, second) in [(true, false), (false, true), (true, true)] {
            let text = doubts(1, first, second);
            assert!(text.len() == 1 && text[0].contains("may lack its last frames"), "{text:?}");
        }
        let text = doubts(200, false, false);
        assert!(text.len() == 1 && text[0].contains("frames are missing in the capture"), "{text:?}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_end_of_a_section_counts_what_its_frames_have_said() {
        let mut tally = Tally::default();
        for part in [
            Part::Section,
            Part::Interface,
            Part::Frame { missing: 3 },
            Part::Statistics { missing: 5 },
            Part::Statistics { missing: 1 },
            Part::Section,
            Part::Interface,
            Part::Frame { missing: 2 },
        ] {
            tally.part(part);
        }
        tally.end_section();
        assert_eq!((tally.missing, tally.cut), (8, true));
    }

    #[test]
    fn nonsense_of_a_stack_ends_the_capture() {
        let path = std::env::temp_dir().join(format!("netgraft-nonsense-{}", std::process::id()));
        let output = CaptureOutput::File(path.clone());
        let mut files =
            Files::open(&CaptureSpec { output, snap: 0, size: None, time: None, keep: None }).unwrap();
        let (ours, theirs) = fdpass::pair().unwrap();
        fdpass::send(theirs.as_fd(), b"no block of any kind", &[]).unwrap();
        drop(theirs);
        assert!(files.write_all(&ours).unwrap_err().to_string().contains("no frame"));
        fs::remove_file(path).unwrap();
    }
}
