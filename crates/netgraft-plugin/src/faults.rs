//! What a link does to frames on purpose: the description that an operator gives and a link keeps to.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// A share of all frames, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// No frame.
    pub const NONE: Share = Share(0);
    /// Every frame.
    pub const ALL: Share = Share(1_000_000);

    /// So many of a million; all of them if it is more.
    #[must_use]
    pub const fn from_ppm(ppm: u32) -> Share {
        if ppm > 1_000_000 { Share::ALL } else { Share(ppm) }
    }

    /// So many of a hundred; all of them if it is more.
    #[must_use]
    pub const fn from_percent(percent: u32) -> Share {
        Share::from_ppm(percent.saturating_mul(10_000))
    }

    /// Parts per million.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.0
    }
}

/// Which frames are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with the same chance, whatever became of the ones before.
    Random(Share),
    /// In bursts: the model of Gilbert and Elliott, a line that is good or bad.
    Bursts(Bursts),
}

/// Loss in bursts. Each frame finds the line as the one before it left it, good at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bursts {
    /// The chance of each frame on a good line that the line is bad from this one on.
    pub begin: Share,
    /// The chance of each frame on a bad line that the line is good from this one on; its inverse is the mean length of a
    /// burst.
    pub end: Share,
    /// The loss on a bad line.
    pub within: Share,
    /// The loss on a good line.
    pub outside: Share,
}

/// A number of bits each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bits each second; `None` for 0.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Rate> {
        match NonZeroU64::new(bits) {
            Some(bits) => Some(Rate(bits)),
            None => None,
        }
    }

    /// Bits each second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0.get()
    }

    /// How long so many bytes take.
    #[must_use]
    pub fn time_of(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What happens to the frames of one direction, in this order: they wait in a queue for the rate, some are lost, damaged
/// or doubled on the way, and the rest arrives after the delay. The default leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// How fast frames enter the line; `None` for at once. What counts is the length of a frame with its link header.
    pub rate: Option<Rate>,
    /// How many frames may wait for the rate, beside the one that enters; one that finds the queue full is lost.
    pub queue: u32,
    /// Which frames are lost.
    pub loss: Loss,
    /// Frames in which one bit is wrong.
    pub corrupt: Share,
    /// Frames that arrive twice, one right behind the other.
    pub duplicate: Share,
    /// The time that each frame takes.
    pub delay: Duration,
    /// How much more or less it may be. Frames do not pass each other by it.
    pub jitter: Duration,
    /// Frames that later ones may pass.
    pub reorder: Share,
    /// How much longer those take.
    pub reorder_by: Duration,
}

impl Faults {
    /// The default of [`Faults::queue`]: that of Linux's devices and of tc-netem(8).
    pub const QUEUE: u32 = 1000;
    /// The default of [`Faults::reorder_by`].
    pub const REORDER_BY: Duration = Duration::from_millis(3);
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            rate: None,
            queue: Faults::QUEUE,
            loss: Loss::None,
            corrupt: Share::NONE,
            duplicate: Share::NONE,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: Share::NONE,
            reorder_by: Faults::REORDER_BY,
        }
    }
}

/// What happens to the frames of a link, as the stack on it sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkFaults {
    /// Those to the stack.
    pub incoming: Faults,
    /// Those from the stack.
    pub outgoing: Faults,
}

impl LinkFaults {
    /// The same in both directions.
    #[must_use]
    pub const fn both(faults: Faults) -> LinkFaults {
        LinkFaults { incoming: faults, outgoing: faults }
    }

    /// In the direction to the stack alone.
    #[must_use]
    pub fn only_incoming(faults: Faults) -> LinkFaults {
        LinkFaults { incoming: faults, outgoing: Faults::default() }
    }

    /// Whether all frames pass at once and unchanged.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == LinkFaults::default()
    }
}

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub frames: u64,
    /// Those that found the queue full, or more than 64 MiB under way.
    pub overflowed: u64,
    /// Those lost on the way.
    pub lost: u64,
    /// Those that were damaged.
    pub corrupted: u64,
    /// Those that came out twice.
    pub duplicated: u64,
    /// Those that were held back.
    pub reordered: u64,
}

/// What happens to the frames of a link whose faults can be changed, and what has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// What happens.
    pub faults: LinkFaults,
    /// What decides which frames are lost and so on.
    pub seed: u64,
    /// What became of the frames to the stack.
    pub incoming: Counts,
    /// And of those from it.
    pub outgoing: Counts,
}

/// A text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFaultError {
    /// Not a share.
    #[error("'{0}' is not a share of frames from 0% to 100%, such as 1% or 0.05%")]
    Share(String),
    /// Not a time.
    #[error("'{0}' is not a time of at most an hour, such as 25ms, 200us or 1.5s")]
    Time(String),
    /// Not a rate.
    #[error("'{0}' is not a rate, such as 100mbit, 1.5gbit, 56kbit or none")]
    Rate(String),
    /// Not a loss.
    #[error(
        "'{0}' is not a loss: use a share such as 1%, or burst:BEGIN/END[/WITHIN[/OUTSIDE]], such as burst:0.5%/20%"
    )]
    Loss(String),
    /// Not a number of frames.
    #[error("'{0}' is not a number of frames from 0 to 1000000")]
    Queue(String),
    /// No such fault.
    #[error(
        "unknown fault '{0}': use delay, jitter, loss, reorder, duplicate, corrupt, rate or queue, as in delay=25ms"
    )]
    Unknown(String),
    /// A queue without a rate.
    #[error("a queue without a rate never fills: give a rate, too")]
    QueueAlone,
    /// More jitter than delay.
    #[error("the jitter of {0:?} is more than the delay of {1:?}")]
    Jitter(Duration, Duration),
}

/// A number with a fraction of at most `digits` digits, in units of the last of them. Not through a floating-point number,
/// so that 0.1 is what it says.
fn decimal(text: &str, digits: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || text.ends_with('.') {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= digits)?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(10_u64.pow(digits))?.checked_add(fraction * 10_u64.pow(digits - places))
}

/// Splits a number from its unit, and gives the number in 10^-`digits` of the unit.
fn with_unit<T: Copy>(text: &str, units: &[(&str, T, u32)]) -> Option<(u64, T)> {
    let start = text.find(|c: char| c.is_ascii_alphabetic() || c == '%')?;
    let (number, unit) = text.split_at(start);
    let &(_, value, digits) = units.iter().find(|(name, ..)| *name == unit)?;
    Some((decimal(number, digits)?, value))
}

impl FromStr for Share {
    type Err = ParseFaultError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ppm = with_unit(text, &[("%", (), 4)]).and_then(|(ppm, ())| u32::try_from(ppm).ok());
        match ppm {
            Some(ppm) if ppm <= Share::ALL.0 => Ok(Share(ppm)),
            _ => Err(ParseFaultError::Share(text.to_owned())),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        write!(f, "{whole}.{}%", format!("{fraction:04}").trim_end_matches('0'))
    }
}

impl FromStr for Rate {
    type Err = ParseFaultError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("bit", (), 0), ("kbit", (), 3), ("mbit", (), 6), ("gbit", (), 9)];
        let bits = with_unit(text, &units).and_then(|(bits, ())| Rate::from_bits(bits));
        bits.ok_or_else(|| ParseFaultError::Rate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")];
        let (size, unit) = largest(self.bits(), &units).unwrap_or((1, "bit"));
        write!(f, "{}{unit}", self.bits() / size)
    }
}

/// The largest unit of which a number is a multiple.
fn largest<'a>(number: u64, units: &[(u64, &'a str)]) -> Option<(u64, &'a str)> {
    units.iter().copied().find(|(size, _)| number.is_multiple_of(*size))
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::None => write!(f, "{}", Share::NONE),
            Loss::Random(share) => write!(f, "{share}"),
            Loss::Bursts(Bursts { begin, end, within, outside }) => {
                write!(f, "burst:{begin}/{end}")?;
                if (*within, *outside) != (Share::ALL, Share::NONE) {
                    write!(f, "/{within}")?;
                }
                if *outside == Share::NONE { Ok(()) } else { write!(f, "/{outside}") }
            }
        }
    }
}

impl FromStr for Loss {
    type Err = ParseFaultError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(burst) = text.strip_prefix("burst:") else {
            let share = text.parse().map_err(|_| ParseFaultError::Loss(text.to_owned()))?;
            return Ok(if share == Share::NONE { Loss::None } else { Loss::Random(share) });
        };
        let shares: Result<Vec<Share>, _> = burst.split('/').map(str::parse).collect();
        let shares = shares.map_err(|_| ParseFaultError::Loss(text.to_owned()))?;
        let (begin, end, within, outside) = match shares[..] {
            [begin, end] => (begin, end, Share::ALL, Share::NONE),
            [begin, end, within] => (begin, end, within, Share::NONE),
            [begin, end, within, outside] => (begin, end, within, outside),
            _ => return Err(ParseFaultError::Loss(text.to_owned())),
        };
        Ok(Loss::Bursts(Bursts { begin, end, within, outside }))
    }
}

/// A time such as 25ms.
fn time(text: &str) -> Result<Duration, ParseFaultError> {
    const HOUR: Duration = Duration::from_secs(3600);
    let nanos = with_unit(text, &[("ns", (), 0), ("us", (), 3), ("ms", (), 6), ("s", (), 9)]);
    let time = nanos.map(|(nanos, ())| Duration::from_nanos(nanos)).filter(|time| *time <= HOUR);
    time.ok_or_else(|| ParseFaultError::Time(text.to_owned()))
}

/// A time as [`time`] reads it.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No fault takes longer than an hour.
        let nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
        let (size, unit) = largest(nanos, &units).unwrap_or((1, "ns"));
        write!(f, "{}{unit}", nanos / size)
    }
}

/// One fault with its value, by name: how an operator describes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `delay`
    Delay(Duration),
    /// `jitter`
    Jitter(Duration),
    /// `loss`
    Loss(Loss),
    /// `reorder`: SHARE or SHARE:TIME
    Reorder(Share, Duration),
    /// `duplicate`
    Duplicate(Share),
    /// `corrupt`
    Corrupt(Share),
    /// `rate`: RATE or none, which also ends what the queue was
    Rate(Option<Rate>),
    /// `queue`
    Queue(u32),
}

impl Fault {
    /// Reads the value of the fault of this name.
    ///
    /// # Errors
    /// What the value should be.
    pub fn parse(name: &str, value: &str) -> Result<Fault, ParseFaultError> {
        Ok(match name {
            "delay" => Fault::Delay(time(value)?),
            "jitter" => Fault::Jitter(time(value)?),
            "loss" => Fault::Loss(value.parse()?),
            "reorder" => match value.split_once(':') {
                None => Fault::Reorder(value.parse()?, Faults::REORDER_BY),
                Some((share, by)) => Fault::Reorder(share.parse()?, time(by)?),
            },
            "duplicate" => Fault::Duplicate(value.parse()?),
            "corrupt" => Fault::Corrupt(value.parse()?),
            "rate" if value == "none" => Fault::Rate(None),
            "rate" => Fault::Rate(Some(value.parse()?)),
            "queue" => match value.parse() {
                Ok(frames) if frames <= 1_000_000 => Fault::Queue(frames),
                _ => return Err(ParseFaultError::Queue(value.to_owned())),
            },
            _ => return Err(ParseFaultError::Unknown(name.to_owned())),
        })
    }
}

impl Fault {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Fault::Delay(_) => "delay",
            Fault::Jitter(_) => "jitter",
            Fault::Loss(_) => "loss",
            Fault::Reorder(..) => "reorder",
            Fault::Duplicate(_) => "duplicate",
            Fault::Corrupt(_) => "corrupt",
            Fault::Rate(_) => "rate",
            Fault::Queue(_) => "queue",
        }
    }

    /// Its value, as [`Fault::parse`] reads it.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Fault::Delay(time) | Fault::Jitter(time) => Time(*time).to_string(),
            Fault::Loss(loss) => loss.to_string(),
            Fault::Reorder(share, Faults::REORDER_BY) => share.to_string(),
            Fault::Reorder(share, by) => format!("{share}:{}", Time(*by)),
            Fault::Duplicate(share) | Fault::Corrupt(share) => share.to_string(),
            Fault::Rate(rate) => rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string()),
            Fault::Queue(frames) => frames.to_string(),
        }
    }
}

impl fmt::Display for Fault {
    /// `NAME=VALUE`, as [`Faults::change`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name(), self.value())
    }
}

impl Faults {
    /// Those that are not as in the default.
    pub fn all(&self) -> impl Iterator<Item = Fault> {
        let default = Faults::default();
        let pairs = self.each().into_iter().zip(default.each());
        pairs.filter(|(fault, default)| fault != default).map(|(fault, _)| fault)
    }

    const fn each(&self) -> [Fault; 8] {
        [
            Fault::Delay(self.delay),
            Fault::Jitter(self.jitter),
            Fault::Loss(self.loss),
            Fault::Reorder(self.reorder, self.reorder_by),
            Fault::Duplicate(self.duplicate),
            Fault::Corrupt(self.corrupt),
            Fault::Rate(self.rate),
            Fault::Queue(self.queue),
        ]
    }

    /// Sets what a text names: `NAME=VALUE` as often as is wanted, with commas between; an empty text and `none` change
    /// nothing. Whether they go together is for [`Faults::check`].
    ///
    /// # Errors
    /// What is no fault; those in front of it are set.
    pub fn change(&mut self, text: &str) -> Result<(), ParseFaultError> {
        let text = if text == "none" { "" } else { text };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| ParseFaultError::Unknown(part.to_owned()))?;
            self.set(Fault::parse(name.trim(), value.trim())?);
        }
        Ok(())
    }

    /// Sets one of them.
    pub fn set(&mut self, fault: Fault) {
        match fault {
            Fault::Delay(delay) => self.delay = delay,
            Fault::Jitter(jitter) => self.jitter = jitter,
            Fault::Loss(loss) => self.loss = loss,
            Fault::Reorder(share, by) => (self.reorder, self.reorder_by) = (share, by),
            Fault::Duplicate(share) => self.duplicate = share,
            Fault::Corrupt(share) => self.corrupt = share,
            Fault::Rate(rate) => {
                self.rate = rate;
                if rate.is_none() {
                    self.queue = Faults::QUEUE;
                }
            }
            Fault::Queue(frames) => self.queue = frames,
        }
    }

    /// Whether they go together.
    ///
    /// # Errors
    /// Those that do not.
    pub fn check(&self) -> Result<(), ParseFaultError> {
        if self.rate.is_none() && self.queue != Faults::QUEUE {
            return Err(ParseFaultError::QueueAlone);
        }
        if self.jitter > self.delay {
            return Err(ParseFaultError::Jitter(self.jitter, self.delay));
        }
        Ok(())
    }
}

impl FromStr for Faults {
    type Err = ParseFaultError;
    /// Reads what [`Faults::change`] does; an empty text and `none` are no faults.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut faults = Faults::default();
        faults.change(text)?;
        faults.check()?;
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    /// As it is read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.all();
        let Some(first) = all.next() else { return f.write_str("none") };
        write!(f, "{first}")?;
        all.try_for_each(|fault| write!(f, ",{fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_end_at_all_and_rates_have_times() {
        assert_eq!(Share::from_ppm(2_000_000), Share::ALL);
        assert_eq!(Share::from_percent(101), Share::ALL);
        assert_eq!(Share::from_percent(1).ppm(), 10_000);
        assert_eq!(Rate::from_bits(0), None);
        let rate = Rate::from_bits(1_000_000).unwrap();
        assert_eq!(rate.time_of(125), Duration::from_millis(1));
        assert_eq!(Rate::from_bits(1).unwrap().time_of(usize::MAX), Duration::from_nanos(u64::MAX));
        assert!(LinkFaults::default().is_none());
        assert!(!LinkFaults::only_incoming(Faults { corrupt: Share::ALL, ..Faults::default() }).is_none());
    }

    #[test]
    fn values_are_exact() {
        for (text, ppm) in [("0%", 0), ("1%", 10_000), ("0.05%", 500), ("0.0001%", 1), ("100%", 1_000_000)] {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.ppm(), share.to_string()), (ppm, text.to_owned()));
        }
        for (text, bits) in
            [("1bit", 1), ("56kbit", 56_000), ("1.5gbit", 1_500_000_000), ("100mbit", 100_000_000)]
        {
            assert_eq!(text.parse::<Rate>().unwrap().bits(), bits, "{text}");
        }
        for (text, nanos) in [("25ms", 25_000_000), ("200us", 200_000), ("1.5s", 1_500_000_000), ("0ms", 0)] {
            assert_eq!(time(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for text in ["", "1", "%", "101%", "-1%", "1.%", ".5%", "0.00001%", "1 %", "1%%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        for text in ["", "0mbit", "1", "mbit", "1.5bit", "99999999999gbit", "1Mbit", "1mbits"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["", "25", "ms", "3601s", "1.0000000001s", "99999999999999999999s", "1m"] {
            assert!(time(text).is_err(), "{text}");
        }
        for text in ["burst:1%", "burst:", "burst:1%/2%/3%/4%/5%", "burst:1/2", "bursts:1%/2%"] {
            assert!(text.parse::<Loss>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_is_described_by_names() {
        let faults: Faults =
            "delay=25ms,jitter=1ms,loss=burst:1%/20%,reorder=1%:5ms,duplicate=2%,corrupt=3%,rate=1mbit,queue=50"
                .parse()
                .unwrap();
        let bursts = Bursts {
            begin: Share::from_percent(1),
            end: Share::from_percent(20),
            within: Share::ALL,
            outside: Share::NONE,
        };
        let expected = Faults {
            rate: Rate::from_bits(1_000_000),
            queue: 50,
            loss: Loss::Bursts(bursts),
            corrupt: Share::from_percent(3),
            duplicate: Share::from_percent(2),
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(1),
            reorder: Share::from_percent(1),
            reorder_by: Duration::from_millis(5),
        };
        assert_eq!(faults, expected);
        assert_eq!(faults.to_string().parse(), Ok(faults));
        assert_eq!("".parse(), Ok(Faults::default()));
        assert_eq!("none".parse(), Ok(Faults::default()));
        for (text, part) in [
            ("speed=1", "unknown fault 'speed'"),
            ("delay", "unknown fault 'delay'"),
            ("queue=9", "without a rate"),
            ("delay=1ms,jitter=2ms", "more than the delay"),
            ("rate=1mbit,queue=-1", "number of frames"),
            ("loss=some", "burst:BEGIN/END"),
        ] {
            let error = text.parse::<Faults>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_is_written_as_it_is_read() {
        for text in [
            "none",
            "delay=25ms",
            "delay=1s,jitter=999999999ns",
            "loss=0.05%,reorder=1%",
            "loss=burst:1%/20%",
            "loss=burst:1%/20%/50%",
            "loss=burst:1%/20%/100%/0.5%,reorder=2%:200us",
            "duplicate=2%,corrupt=100%,rate=1500kbit,queue=0",
            "rate=1gbit",
        ] {
            let faults: Faults = text.parse().unwrap();
            assert_eq!(faults.to_string(), text);
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let mut faults: Faults = "delay=25ms,rate=1mbit,queue=5".parse().unwrap();
        faults.change("loss=1%,rate=2mbit").unwrap();
        assert_eq!(faults.to_string(), "delay=25ms,loss=1%,rate=2mbit,queue=5");
        // Without a rate nothing waits for it.
        faults.change("rate=none,loss=0%,delay=0ms").unwrap();
        assert_eq!(faults, Faults::default());
        assert!(faults.change("jitter=1ms,speed=1").is_err());
        assert!(faults.check().is_err());
    }
}
