//! The report of a run.

use std::fmt::Write as _;

use netgraft_plugin::Domain;
use serde::{Deserialize, Serialize};

use super::{Case, Outcome, Path};

/// The outcome of one case in one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The case's group.
    pub group: String,
    /// The case's name.
    pub name: String,
    /// What it ran on: `v4`, `v6 wire` and so on.
    pub setting: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What was said of the stack's answers meanwhile: of those that break its contract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
    /// The last calls before the end of a case that failed, where somebody wrote them down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
}

impl Row {
    pub(crate) fn new(case: &Case, path: Path, domain: Domain) -> Row {
        let family = match domain {
            Domain::V4 => "v4",
            Domain::V6 => "v6",
        };
        let setting = match path {
            Path::Loopback => family.to_owned(),
            Path::Wire => format!("{family} wire"),
        };
        Row::of(case.group, case.name, &setting, Outcome::Pass)
    }

    pub(crate) fn of(group: &str, name: &str, setting: &str, outcome: Outcome) -> Row {
        let (group, name, setting) = (group.to_owned(), name.to_owned(), setting.to_owned());
        Row { group, name, setting, outcome, said: Vec::new(), calls: Vec::new() }
    }

    /// The row of a case, by what [`Row::id`] says of it, in which the stack ended the process in a call or did not
    /// return from it.
    #[must_use]
    pub fn lost(id: &str, call: &str, actual: &str) -> Row {
        let (case, setting) = id.split_once(" [").unwrap_or((id, ""));
        let (group, name) = case.split_once('/').unwrap_or(("", case));
        Row::of(group, name, setting.trim_end_matches(']'), Outcome::fail(call, "a return", actual))
    }

    /// What failed, for people: a line, what was said, and the calls before. Empty if it did not fail.
    #[must_use]
    pub fn failure_text(&self) -> String {
        let Outcome::Fail { call, expected, actual } = &self.outcome else { return String::new() };
        let mut text = format!("FAIL {}: {call}: expected {expected}, got {actual}\n", self.id());
        for line in self.said.iter().chain(&self.calls) {
            let _ = writeln!(text, "     {line}");
        }
        text
    }

    /// `group/name [setting]`: what filters and skips name.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{} [{}]", self.group, self.name, self.setting)
    }
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The stack's name.
    pub stack: String,
    /// Every case that ran, in order.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many cases passed, failed, and are not supported.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for row in &self.rows {
            match row.outcome {
                Outcome::Pass => counts.0 += 1,
                Outcome::Fail { .. } => counts.1 += 1,
                Outcome::Unsupported { .. } => counts.2 += 1,
            }
        }
        counts
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Fail { .. }))
    }

    /// For people: a line for each group, then what failed and what is not supported.
    #[must_use]
    pub fn table(&self) -> String {
        self.table_knowing(&|_| None)
    }

    /// The same, with one line for a failure of which `known` has the reason.
    #[must_use]
    pub fn table_knowing(&self, known: &dyn Fn(&Row) -> Option<String>) -> String {
        let mut text = String::new();
        let line = |text: &mut String, group: &str, (pass, fail, without): (usize, usize, usize)| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{group:<20} {pass:>6} {fail:>6} {without:>11}");
        };
        let _ = writeln!(text, "{:<20} {:>6} {:>6} {:>11}", self.stack, "pass", "fail", "unsupported");
        let mut groups: Vec<&str> = self.rows.iter().map(|row| row.group.as_str()).collect();
        groups.dedup();
        for group in groups {
            let rows = self.rows.iter().filter(|row| row.group == group).cloned().collect();
            line(&mut text, group, Report { stack: String::new(), rows }.counts());
        }
        line(&mut text, "all", self.counts());
        for row in self.failures() {
            match known(row) {
                Some(reason) => {
                    let _ = writeln!(text, "known {}: {reason}", row.id());
                }
                None => text.push_str(&row.failure_text()),
            }
        }
        text.push_str(&self.unsupported_text());
        text
    }

    /// What is not supported: a line for each case, and one alone for cases that the same is said of.
    fn unsupported_text(&self) -> String {
        let mut reasons = Vec::<(&str, Vec<&Row>)>::new();
        for row in &self.rows {
            let Outcome::Unsupported { says } = &row.outcome else { continue };
            match reasons.iter_mut().find(|(known, _)| known == says) {
                Some((_, rows)) => rows.push(row),
                None => reasons.push((says, vec![row])),
            }
        }
        let mut text = String::new();
        for (says, rows) in reasons {
            if let [row] = rows.as_slice() {
                let _ = writeln!(text, "unsupported {}: {says}", row.id());
            } else {
                let _ = writeln!(text, "unsupported {} cases: {says}", rows.len());
            }
        }
        text
    }

    /// For programs: one JSON object.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_and_lists_failures() {
        let row = |name: &str, outcome| Row::of("g", name, "v4", outcome);
        let report = Report {
            stack: "s".into(),
            rows: vec![
                row("a", Outcome::Pass),
                row("b", Outcome::fail("bind", "success", "Io")),
                row("c", Outcome::Unsupported { says: "no".into() }),
            ],
        };
        assert_eq!(report.counts(), (1, 1, 1));
        assert_eq!(serde_json::from_str::<Report>(&report.json().unwrap()).unwrap(), report);
        assert!(report.table().contains("FAIL g/b [v4]: bind: expected success, got Io"));
        let known = report.table_knowing(&|row| (row.name == "b").then(|| "it is old".to_owned()));
        assert!(known.contains("\nknown g/b [v4]: it is old\n") && !known.contains("FAIL"), "{known}");
        assert_eq!(report.failures().count(), 1);
        let family = Row::of("g", "d", "v6", crate::conformance::no_family(Domain::V6));
        let rows = vec![family.clone(), family, report.rows[2].clone()];
        let without = Report { stack: "s".into(), rows };
        let lines: Vec<String> = without.table().lines().skip(3).map(str::to_owned).collect();
        assert_eq!(lines, ["unsupported 2 cases: it has no sockets of IPv6", "unsupported g/c [v4]: no"]);
        let mut failed = report.rows[1].clone();
        failed.said.push("nonsense".into());
        failed.calls.push("bind(#1) = Err(Io)".into());
        let expected =
            "FAIL g/b [v4]: bind: expected success, got Io\n     nonsense\n     bind(#1) = Err(Io)\n";
        assert_eq!(failed.failure_text(), expected);
        let id = report.rows[1].id();
        assert_eq!(Row::lost(&id, "bind", "died").id(), id);
    }
}
