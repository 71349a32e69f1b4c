//! The log of a stack in Rust: what it says with `tracing` goes to the caller's log.
//!
//! An object has a `tracing` of its own, without a subscriber. The first instance makes this module listen, and
//! lines go to the log of the newest instance that is still there.

use std::ffi::c_void;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::Log;
use crate::codes;

/// The logs of the instances that exist, each with its instance.
static LOGS: Mutex<Vec<(usize, Log)>> = Mutex::new(Vec::new());

// SAFETY: the header lets the log be called from any thread, as long as the instance is there.
unsafe impl Send for Log {}

/// An instance begins.
pub(super) fn begin(instance: *const c_void, log: Log) {
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).push((instance.addr(), log));
    // Unless the stack has a listener of its own.
    let _ = tracing::subscriber::set_global_default(Forward(AtomicU64::new(1)));
}

/// An instance ends: its log is not called any more when this has returned.
pub(super) fn end(instance: *const c_void) {
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| *of != instance.addr());
}

struct Forward(AtomicU64);

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match (field.name(), self.0.is_empty()) {
            ("message", true) => write!(self.0, "{value:?}"),
            ("message", false) => {
                self.0.insert_str(0, &format!("{value:?} "));
                Ok(())
            }
            (name, true) => write!(self.0, "{name}={value:?}"),
            (name, false) => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Spans are not shown, but must have numbers.
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed).max(1))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => codes::LOG_ERROR,
            Level::WARN => codes::LOG_WARN,
            Level::INFO => codes::LOG_INFO,
            Level::DEBUG => codes::LOG_DEBUG,
            Level::TRACE => codes::LOG_TRACE,
        };
        let mut line = Line::default();
        event.record(&mut line);
        // Held during the call, so that the log is there.
        if let Some((_, log)) = LOGS.lock().unwrap_or_else(PoisonError::into_inner).last() {
            log.write(level, &line.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
