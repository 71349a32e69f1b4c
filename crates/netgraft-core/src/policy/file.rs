//! Policies as files: TOML, with rules as the command line has them.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::rule::{Action, Rule};
use super::{MOST_RULES, PolicySpec};
use crate::route::Denial;

/// The most bytes of a file.
pub(crate) const MOST_BYTES: usize = 4 << 20;

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what was expected, in one line.
    pub text: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.text)
    }
}

impl std::error::Error for PolicyError {}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its rules and settings.
    pub spec: PolicySpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    default: Option<DefaultText>,
    #[serde(default)]
    allow_private: bool,
    deny_with: Option<DenialText>,
    #[serde(default)]
    rules: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DefaultText {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DenialText {
    Access,
    Refused,
}

impl PolicyFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn parse(text: &str) -> Result<PolicyFile, PolicyError> {
        if text.len() > MOST_BYTES {
            return Err(at(text, 0, format!("the file has more than {MOST_BYTES} bytes")));
        }
        let read: Text = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            at(text, place, error.message().replace('\n', ", "))
        })?;
        if let Some(first) = read.rules.get(MOST_RULES) {
            let what = format!("there are more than {MOST_RULES} rules");
            return Err(at(text, first.span().start, what));
        }
        let rules = read.rules.into_iter().map(|rule| parse_rule(text, &rule)).collect::<Result<_, _>>()?;
        let spec = PolicySpec {
            rules,
            default: read.default.map(|default| match default {
                DefaultText::Allow => Action::Allow,
                DefaultText::Deny => Action::Deny,
            }),
            allow_private: read.allow_private,
            deny_with: read.deny_with.map(|denial| match denial {
                DenialText::Access => Denial::AccessDenied,
                DenialText::Refused => Denial::Refused,
            }),
            ..PolicySpec::default()
        };
        Ok(PolicyFile { spec })
    }
}

fn parse_rule(text: &str, rule: &Spanned<String>) -> Result<Rule, PolicyError> {
    let Range { start, end } = rule.span();
    Rule::parse_with_verb(rule.get_ref()).map_err(|error| {
        let mut place = at(text, start, error.text);
        // Where the text stands between quotes as it is, the place in it is known.
        let between = text.get(start + 1..end.saturating_sub(1));
        if between == Some(rule.get_ref().as_str()) {
            place.column += error.column;
        }
        place
    })
}

fn at(text: &str, place: usize, what: String) -> PolicyError {
    let before = text.get(..place.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    PolicyError { line: before.matches('\n').count() + 1, column, text: what }
}
