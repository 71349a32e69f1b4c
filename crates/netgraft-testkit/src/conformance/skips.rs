//! Known deviations of stacks, kept as data.

use std::collections::BTreeMap;

use super::{Outcome, Report, Row, is_named};

/// A file of skips that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SkipsError {
    /// It does not parse.
    #[error("the skips do not parse: {0}")]
    Parse(#[from] toml::de::Error),
    /// A skip gives no reason.
    #[error("the skip of '{case}' on '{stack}' gives no reason")]
    NoReason {
        /// The stack.
        stack: String,
        /// The case.
        case: String,
    },
}

/// For each stack, the cases that fail, each with the reason.
///
/// ```toml
/// [stack]
/// "group/name [setting]" = "why it fails and why that is accepted"
/// "group/name" = "the same for every setting"
/// ```
#[derive(Clone, Debug, Default)]
pub struct Skips(BTreeMap<String, BTreeMap<String, String>>);

impl Skips {
    /// Reads the text of a skips file.
    ///
    /// # Errors
    /// [`SkipsError`].
    pub fn parse(text: &str) -> Result<Skips, SkipsError> {
        let skips: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(text)?;
        for (stack, cases) in &skips {
            if let Some((case, _)) = cases.iter().find(|(_, reason)| reason.trim().is_empty()) {
                return Err(SkipsError::NoReason { stack: stack.clone(), case: case.clone() });
            }
        }
        Ok(Skips(skips))
    }

    /// The failures of a report that no skip explains.
    #[must_use]
    pub fn unexplained<'a>(&self, report: &'a Report) -> Vec<&'a Row> {
        report.failures().filter(|row| !self.explains(report, row)).collect()
    }

    /// The same with what the stack says that it cannot do: nothing that does not pass goes unseen.
    #[must_use]
    pub fn unlisted<'a>(&self, report: &'a Report) -> Vec<&'a Row> {
        let open = report.rows.iter().filter(|row| row.outcome != Outcome::Pass);
        open.filter(|row| !self.explains(report, row)).collect()
    }

    /// Whether a skip means this row of a report.
    #[must_use]
    pub fn explains(&self, report: &Report, row: &Row) -> bool {
        self.reason(report, row).is_some()
    }

    /// The reason of the skip that means this row of a report.
    #[must_use]
    pub fn reason(&self, report: &Report, row: &Row) -> Option<&str> {
        let cases = self.0.get(&report.stack)?;
        cases.iter().find(|(key, _)| names(key, row)).map(|(_, reason)| reason.as_str())
    }

    /// The skips of a report's stack that explain nothing of it: to be removed.
    #[must_use]
    pub fn stale(&self, report: &Report) -> Vec<String> {
        let cases = self.0.get(&report.stack);
        let fails = |key: &str| {
            report.rows.iter().any(|row| !matches!(row.outcome, Outcome::Pass) && names(key, row))
        };
        cases.into_iter().flat_map(BTreeMap::keys).filter(|key| !fails(key)).cloned().collect()
    }
}

/// Whether a skip's key means a row.
fn names(key: &str, row: &Row) -> bool {
    is_named(&row.id(), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_explain_failures_and_go_stale() {
        let row = |name: &str, outcome| Row::of("g", name, "v4", outcome);
        let fail = || Outcome::fail("c", "e", "a");
        let rows = vec![row("a", fail()), row("b", fail()), row("c", Outcome::Pass)];
        let report = Report { stack: "s".into(), rows };
        let skips = Skips::parse("[s]\n\"g/a\" = \"known\"\n\"g/c [v4]\" = \"was broken\"\n").unwrap();
        let left: Vec<String> = skips.unexplained(&report).iter().map(|row| row.id()).collect();
        assert_eq!(left, ["g/b [v4]"]);
        assert_eq!(skips.reason(&report, &report.rows[0]), Some("known"));
        assert_eq!(skips.stale(&report), ["g/c [v4]"]);
        let rows = vec![row("d", Outcome::Unsupported { says: "no".into() })];
        let report = Report { stack: "s".into(), rows };
        assert_eq!((skips.unexplained(&report).len(), skips.unlisted(&report).len()), (0, 1));
        assert!(Skips::parse("[s]\n\"g/a\" = \" \"\n").is_err());
        assert!(Skips::parse("nonsense").is_err());
    }
}
