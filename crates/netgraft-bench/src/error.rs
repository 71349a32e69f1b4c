//! What can go wrong in a benchmark, in words that say what was being done.

use std::io;

/// Why a benchmark did not give a figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    /// The other side, a tool or the caller did something that makes a figure impossible.
    #[error("{0}")]
    Failed(String),
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
}

/// The result of everything in this crate that can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when an I/O error happened.
pub(crate) trait Doing<T> {
    /// Turns the error into an [`Error::Io`] that begins with the words of `doing`.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::Io { doing: doing().into(), source: error.into() })
    }
}
