//! What a sentry says, before anybody believes it: it may be hostile. Texts are cut and cleaned, all of them together have
//! a budget, and what no sentry of ours would say is an error.

use crate::control::{FromSentry, Kept, Summary};

/// The most bytes of one text.
const TEXT: usize = 4096;
/// The most bytes of all warnings of a sandbox's sentries. An honest one says some hundred.
const BUDGET: usize = 64 * 1024;
/// The most bytes of warnings that are shown, the last one that says so included.
#[cfg(feature = "fuzzing")]
pub(crate) const MOST_SHOWN: usize = BUDGET + 100;
/// How many options a kept socket has at most: each once.
const OPTIONS: usize = 3;

/// Cuts a text, and replaces what could forge a line, move a terminal's cursor or turn a text's direction (UAX #9).
#[must_use]
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let clean = |c: char| if c.is_control() || turns(c) { '\u{fffd}' } else { c };
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(clean).collect()
}

/// Listens to a sentry.
#[derive(Debug)]
pub(crate) struct Ear {
    /// Bytes of warnings that are still shown; `None` once it was said that the rest is not.
    left: Option<usize>,
}

impl Ear {
    pub(crate) const fn new() -> Ear {
        Ear { left: Some(BUDGET) }
    }

    /// Listens to the next sentry of the same sandbox: all of them have one budget.
    pub(crate) fn of_next(&self) -> Ear {
        Ear { left: self.left }
    }

    /// Checks a message. `None` is nothing worth to be looked at.
    ///
    /// # Errors
    /// What no sentry of ours would say.
    pub(crate) fn check(&mut self, message: FromSentry) -> Result<Option<FromSentry>, String> {
        Ok(Some(match message {
            FromSentry::Failed(text) => FromSentry::Failed(printable(&text)),
            FromSentry::Broke(text) => FromSentry::Broke(printable(&text)),
            FromSentry::NotAttached(place, text) => FromSentry::NotAttached(place, printable(&text)),
            FromSentry::Warning(text) => match self.warning(&text) {
                Some(text) => FromSentry::Warning(text),
                None => return Ok(None),
            },
            FromSentry::Summary(summary) => {
                let stack = printable(&summary.stack);
                FromSentry::Summary(Summary { stack, ..summary })
            }
            FromSentry::Keep(kept) => FromSentry::Keep(check_kept(kept)?),
            FromSentry::Link(setting) => match setting.parse() {
                Some(_) => FromSentry::Link(setting),
                None => return Err("faults of a link that are none".to_owned()),
            },
            other @ (FromSentry::Ready(_)
            | FromSentry::NetworkNamespace
            | FromSentry::Keeper
            | FromSentry::Busy
            | FromSentry::Forget(_)
            | FromSentry::Policy { .. }
            | FromSentry::Attached(_)) => other,
        }))
    }

    fn warning(&mut self, text: &str) -> Option<String> {
        let text = printable(text);
        match self.left?.checked_sub(text.len().max(1)) {
            Some(left) => {
                self.left = Some(left);
                Some(text)
            }
            None => {
                self.left = None;
                Some(format!("the sentry has said {BUDGET} bytes of warnings: the rest is not shown"))
            }
        }
    }
}

fn check_kept(kept: Kept) -> Result<Kept, String> {
    if kept.on.len() > OPTIONS {
        return Err(format!("a socket with {} options", kept.on.len()));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{KeptOption, KeptRole};

    #[test]
    fn no_text_has_a_second_line() {
        let nasty = "a\nnetgraft: error: b\r\u{1b}[2Jc\u{85}\u{2028}d\u{202e}";
        let clean = printable(nasty);
        assert_eq!(clean.lines().count(), 1);
        assert!(
            clean.starts_with("a\u{fffd}netgraft: error: b\u{fffd}\u{fffd}[2Jc") && !clean.contains('\u{1b}')
        );
        assert!(!clean.contains(['\u{85}', '\u{2028}', '\u{202e}']));
        assert_eq!(printable("a\u{2066}b\u{2069}c\u{200f}d\u{61c}"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(printable(&"\u{e4}".repeat(TEXT)).len(), TEXT);
        assert_eq!(printable(&format!("x{}", "\u{e4}".repeat(TEXT))).len(), TEXT - 1);
    }

    #[test]
    fn warnings_have_a_budget() {
        let mut ear = Ear::new();
        let mut shown = 0;
        for _ in 0..10_000 {
            match ear.check(FromSentry::Warning("x".repeat(50_000))) {
                Ok(Some(FromSentry::Warning(text))) => shown += text.len(),
                other => assert_eq!(other, Ok(None)),
            }
        }
        assert!((BUDGET..BUDGET + 100).contains(&shown), "{shown}");
        let mut ear = Ear::new();
        let empty =
            (0..2 * BUDGET).filter(|_| matches!(ear.check(FromSentry::Warning(String::new())), Ok(Some(_))));
        assert_eq!(empty.count(), BUDGET + 1, "one without a text counts too");
    }

    #[test]
    fn what_no_sentry_would_say_is_an_error() {
        let kept = |options| Kept {
            cookie: 1,
            name: 1,
            role: KeptRole::Datagrams,
            address: "127.0.0.1:1".parse().unwrap(),
            peer: None,
            on: vec![KeptOption::V6Only; options],
            seen: None,
        };
        assert!(Ear::new().check(FromSentry::Keep(kept(3))).is_ok());
        assert!(Ear::new().check(FromSentry::Keep(kept(4))).is_err());
        let summary = Summary { stack: "a\nb".into(), ..Summary::default() };
        let Ok(Some(FromSentry::Summary(heard))) = Ear::new().check(FromSentry::Summary(summary)) else {
            panic!("a summary is one")
        };
        assert_eq!(heard.stack, "a\u{fffd}b");
    }
}
