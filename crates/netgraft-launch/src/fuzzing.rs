//! What a fuzzer runs.

use crate::control::FromSentry;
use crate::mirror;
use crate::said::{Ear, MOST_SHOWN};

/// Hears what a sentry says, messages with a zero byte between them, as the launcher does.
///
/// # Errors
/// What got past the checks: a text that forges a line, more warnings than there is room for, devices that no kernel has, or a
/// message that is another one when it is written back.
pub fn said(bytes: &[u8]) -> Result<(), String> {
    let mut ear = Ear::new();
    let mut shown = 0;
    for message in bytes.split(|byte| *byte == 0) {
        let Ok(message) = serde_json::from_slice::<FromSentry>(message) else { continue };
        let again = serde_json::to_vec(&message).map_err(|e| e.to_string())?;
        if serde_json::from_slice::<FromSentry>(&again).ok().as_ref() != Some(&message) {
            return Err(format!("{message:?} is another message when it is written back"));
        }
        let Ok(Some(heard)) = ear.check(message) else { continue };
        match &heard {
            FromSentry::Failed(text) | FromSentry::Broke(text) | FromSentry::NotAttached(_, text) => {
                one_line(text)?
            }
            FromSentry::Warning(text) => {
                one_line(text)?;
                shown += text.len();
            }
            FromSentry::Summary(summary) => one_line(&summary.stack)?,
            FromSentry::Ready(network) => mirror::check_devices(network)?,
            _ => {}
        }
    }
    if shown > MOST_SHOWN { Err(format!("{shown} bytes of warnings are shown")) } else { Ok(()) }
}

fn one_line(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}')) {
        Some(c) => Err(format!("a text with {c:?}")),
        None => Ok(()),
    }
}
