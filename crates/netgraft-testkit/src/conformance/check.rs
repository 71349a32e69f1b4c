//! What a case found, and how cases say it.

use std::fmt::{Debug, Display};

use netgraft_plugin::Error;
use serde::{Deserialize, Serialize};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// As it should.
    Pass,
    /// A call did something else than Linux does.
    Fail {
        /// Which call.
        call: String,
        /// What was expected of it.
        expected: String,
        /// What it did.
        actual: String,
    },
    /// The stack says that it cannot do this.
    Unsupported {
        /// In its words.
        says: String,
    },
}

impl Outcome {
    /// A failure.
    pub(crate) fn fail(call: &str, expected: impl Display, actual: impl Display) -> Outcome {
        Outcome::Fail { call: call.to_owned(), expected: expected.to_string(), actual: actual.to_string() }
    }
}

/// What a step of a case gives: a value, or the case's end.
pub type Check<T = ()> = Result<T, Outcome>;

/// Expectations of a call's result.
pub trait Checks<T> {
    /// The call must succeed.
    ///
    /// # Errors
    /// The failure otherwise.
    fn must(self, call: &str) -> Check<T>;

    /// The call must fail with one of these errors.
    ///
    /// # Errors
    /// The failure otherwise.
    fn must_fail(self, call: &str, with: &[Error]) -> Check;

    /// The call must succeed, unless the stack says that it has no such thing.
    ///
    /// # Errors
    /// The failure otherwise, or [`Outcome::Unsupported`].
    fn supported(self, call: &str) -> Check<T>;
}

impl<T: Debug> Checks<T> for netgraft_plugin::Result<T> {
    fn must(self, call: &str) -> Check<T> {
        self.map_err(|e| Outcome::fail(call, "success", format_args!("{e:?}")))
    }

    fn must_fail(self, call: &str, with: &[Error]) -> Check {
        match self {
            Err(e) if with.contains(&e) => Ok(()),
            other => Err(Outcome::fail(call, format_args!("{with:?}"), format_args!("{other:?}"))),
        }
    }

    fn supported(self, call: &str) -> Check<T> {
        use Error::{
            FamilyNotSupported, KindNotSupported, NotSupported, ProtocolNotSupported, UnknownOption,
        };
        match self {
            Err(
                e @ (NotSupported | UnknownOption | KindNotSupported | ProtocolNotSupported
                | FamilyNotSupported),
            ) => Err(Outcome::Unsupported { says: format!("{call}: {e:?}") }),
            other => other.must(call),
        }
    }
}

/// Two values must be equal.
///
/// # Errors
/// The failure otherwise.
pub fn equal<T: Debug + PartialEq>(call: &str, actual: T, expected: T) -> Check {
    if actual == expected {
        return Ok(());
    }
    Err(Outcome::fail(call, format_args!("{expected:?}"), format_args!("{actual:?}")))
}

/// What a stack counts must be so many. One that counts nothing leaves zeros
/// ([`netgraft_plugin::inet::Statistics`]): then it does not support this.
///
/// # Errors
/// The failure otherwise, or [`Outcome::Unsupported`].
pub(crate) fn counted<T: Debug + PartialEq + Default>(what: &str, actual: T, expected: T) -> Check {
    if actual == T::default() && expected != T::default() {
        return Err(Outcome::Unsupported { says: format!("statistics: no {what} are counted") });
    }
    equal(&format!("statistics: {what}"), actual, expected)
}

/// Something must hold; `actual` is shown if it does not.
///
/// # Errors
/// The failure otherwise.
pub fn holds(call: &str, expected: &str, holds: bool, actual: impl Debug) -> Check {
    if holds { Ok(()) } else { Err(Outcome::fail(call, expected, format_args!("{actual:?}"))) }
}
