//! Each call of the stack is written down in the shared words while it lasts, so that the launcher can name it when
//! the sentry dies in it, and end a sentry that does not come back from it.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use netgraft_plugin::{Call, Observer};

use netgraft_launch::control::{self, FromSentry};
use netgraft_launch::vitals::Vitals;

use crate::trace;

/// The words in which calls are noted, and the control socket to the launcher.
pub(crate) struct ToLauncher {
    vitals: Vitals,
    control: OwnedFd,
    /// Whether the operator wants to see each call.
    traces: bool,
}

impl ToLauncher {
    /// An observer that notes calls in `vitals`, and wakes a launcher that sleeps through `control`.
    pub(crate) fn new(vitals: Vitals, control: OwnedFd) -> ToLauncher {
        ToLauncher { vitals, control, traces: tracing::enabled!(tracing::Level::TRACE) }
    }

    /// The launcher slept since nothing happened: from now on it looks again.
    #[cold]
    fn wake_launcher(&self) {
        self.vitals.set_asleep(false);
        // If it is gone, the control socket's hang-up ends the sentry.
        let _ = control::send(self.control.as_fd(), &FromSentry::Busy);
    }
}

impl Observer for ToLauncher {
    fn begin(&self, call: Call) {
        if self.vitals.begin(call) {
            self.wake_launcher();
        }
    }

    fn end(&self, _call: Call) {
        self.vitals.end();
    }

    fn traces(&self) -> bool {
        self.traces
    }

    fn trace(&self, call: Call, arguments: &str, answer: &dyn fmt::Debug) {
        if let Some(line) = trace::line(call, arguments, answer) {
            tracing::trace!("stack: {line}");
        }
    }
}
