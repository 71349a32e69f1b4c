//! The cases, a file for each group.

mod bind;
mod connect;
mod create;
mod datagram;
mod echo;
mod lent;
mod listen;
mod many;
mod notify;
mod options;
mod random;
mod settings;
mod shutdown;
mod stream;

use super::Case;

/// A group's table: `name, over, function;` for each case.
macro_rules! group {
    ($group:literal: $($name:literal, $over:ident, $run:expr;)+) => {
        /// The cases of this group.
        pub(super) const CASES: &[$crate::conformance::Case] = &[$(
            $crate::conformance::Case {
                group: $group,
                name: $name,
                over: $crate::conformance::Over::$over,
                run: $run,
            },
        )+];
    };
}
use group;

/// Every case, in order.
pub(super) fn all() -> Vec<Case> {
    let groups = [
        create::CASES,
        bind::CASES,
        listen::CASES,
        connect::CASES,
        stream::CASES,
        shutdown::CASES,
        lent::CASES,
        notify::CASES,
        datagram::CASES,
        echo::CASES,
        options::CASES,
        settings::CASES,
        many::CASES,
        random::CASES,
    ];
    groups.concat()
}
