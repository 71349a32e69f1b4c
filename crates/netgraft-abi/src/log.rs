//! What a stack has to say, in the operator's log.

use std::ffi::{c_char, c_void};
use std::panic::catch_unwind;
use std::sync::{Mutex, PoisonError};

use crate::codes;

/// The most of one line that is kept, in bytes.
const LINE_LIMIT: usize = 4096;

/// What stands for a reason that was not given.
const NO_REASON: &str = "it does not say why";

/// A text of a stack, without what could move a terminal's cursor or forge a line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A text that a stack wrote to a buffer of ours; up to its zero byte.
pub(crate) fn written_text(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    let text = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
    if text.is_empty() { NO_REASON.to_owned() } else { printable(text.trim_end()) }
}

/// Writes a line of a stack.
pub(crate) fn line(stack: &str, level: u32, text: &str) {
    let text = printable(text);
    match level {
        0..=codes::LOG_ERROR => tracing::error!(stack, "{text}"),
        codes::LOG_WARN => tracing::warn!(stack, "{text}"),
        codes::LOG_INFO => tracing::info!(stack, "{text}"),
        codes::LOG_DEBUG => tracing::debug!(stack, "{text}"),
        codes::LOG_TRACE.. => tracing::trace!(stack, "{text}"),
    }
}

/// What is behind [`crate::raw::Host::context`].
pub(crate) struct Logger {
    stack: String,
    /// The last error that it logged, from any thread: the reason when it says that it is broken.
    last_error: Mutex<String>,
}

impl Logger {
    pub(crate) fn new(stack: &str) -> Logger {
        Logger { stack: stack.to_owned(), last_error: Mutex::default() }
    }

    /// The last error that was logged, on one line.
    pub(crate) fn last_error(&self) -> String {
        let text = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() { NO_REASON.to_owned() } else { printable(&text) }
    }
}

/// [`crate::raw::Host::log`].
///
/// # Safety
/// `context` is a [`Logger`] that lives, and `text` points to `length` bytes.
pub(crate) unsafe extern "C" fn log(context: *mut c_void, level: u32, text: *const c_char, length: usize) {
    if context.is_null() || text.is_null() {
        return;
    }
    // SAFETY: the caller's promise; a Logger is never written to.
    let logger = unsafe { &*context.cast::<Logger>() };
    // SAFETY: the caller's promise; less is read than it says.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length.min(LINE_LIMIT)) };
    let text = String::from_utf8_lossy(bytes);
    if level <= codes::LOG_ERROR {
        logger.last_error.lock().unwrap_or_else(PoisonError::into_inner).replace_range(.., &text);
    }
    // A subscriber of the caller's runs in there: its panic must not cross into C.
    let _ = catch_unwind(|| line(&logger.stack, level, &text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_made_harmless() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(written_text(b"no device\0rubbish"), "no device");
        assert_eq!(written_text(&[0; 8]), "it does not say why");
        assert_eq!(written_text(b"endless"), "endless");
    }
}
