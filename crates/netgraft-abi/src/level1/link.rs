//! The link of a level 1 stack: netgraft opens it, and the object gets a descriptor that carries its frames.
//!
//! That is the device itself. Where something is done to the frames (a capture, faults), or where the link is no device
//! (passt), it is one end of a pair of sockets, and a [`Bridge`] has the other and the link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_link::{Bridge, bridge};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{InitStackArgs, LinkConfig, PreInitStack, StackConfig};

/// Whether frames go through a bridge: only where they have to, since it costs copies and system calls.
pub(super) fn is_bridged(config: &StackConfig) -> bool {
    let wrapped = !config.wrappers.faults.is_none() || config.wrappers.capture.is_some();
    match config.link {
        LinkConfig::None => false,
        LinkConfig::Passt(_) => true,
        _ => wrapped,
    }
}

/// A link that is open.
pub(super) struct OpenLink {
    /// What `netgraft.h` says of `struct netgraft_handover`: kind, name, hardware address and MTU.
    pub(super) text: String,
    /// What the object gets.
    fd: OwnedFd,
    bridge: Option<Parts>,
}

/// What a bridge is made of.
struct Parts {
    /// The description of the link.
    text: String,
    /// The link's descriptors, and behind them the bridge's end of the pair.
    fds: Vec<OwnedFd>,
}

impl OpenLink {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Puts what the bridge needs in front of what the object's pre-init gave.
    pub(super) fn prepend_to(self, given: PreInitStack) -> PreInitStack {
        let Some(Parts { text, fds }) = self.bridge else { return given };
        let init_str = format!("{text}\n{}", given.init_str);
        PreInitStack { init_str, fds: fds.into_iter().chain(given.fds).collect() }
    }
}

/// Opens what the operator chose, with the launcher's rights; `None` for no link.
///
/// # Errors
/// What is missing, for the operator.
pub(super) fn open(config: &StackConfig) -> Result<Option<OpenLink>, SetupError> {
    if config.link == LinkConfig::None {
        return Ok(None);
    }
    let PreInitStack { init_str: text, mut fds } = netgraft_link::open(config)?;
    if !is_bridged(config) {
        let fd =
            fds.pop().ok_or_else(|| SetupError::new(format!("the link {} has no device", config.link)))?;
        return Ok(Some(OpenLink { text, fd, bridge: None }));
    }
    let (own, fd) =
        bridge::pair().map_err(|e| SetupError::host("cannot make a pair of sockets for the link", e))?;
    fds.push(own);
    // To the object the pair is a TAP device, whatever the link is.
    let stack_text = match (&config.link, text.split_once(' ')) {
        (LinkConfig::Passt(_), Some((_, rest))) => format!("tap {rest}"),
        _ => text.clone(),
    };
    Ok(Some(OpenLink { text: stack_text, fd, bridge: Some(Parts { text, fds }) }))
}

/// Makes the bridge of what [`OpenLink::prepend_to`] and the launcher handed over, and leaves in `args` what is the
/// object's.
///
/// # Errors
/// If the handover is not of this configuration.
pub(super) fn make_bridge(config: &StackConfig, args: &mut InitStackArgs) -> Result<Bridge, SetupError> {
    let foreign = || SetupError::new("what the launcher handed over has no link for its stack in it");
    let (text, given) = args.init_str.split_once('\n').ok_or_else(foreign)?;
    let mut fds = std::mem::take(&mut args.fds);
    // The capture's socket is the last one; that of passt, which the launcher has, is the first.
    let capture = if config.wrappers.capture.is_some() { fds.pop() } else { None };
    if fds.len() < 2 {
        return Err(foreign());
    }
    args.fds = fds.split_off(2);
    let own = fds.pop().ok_or_else(foreign)?;
    fds.extend(capture);
    let name = text.split(' ').nth(1).unwrap_or("link");
    let rebuilt = netgraft_link::rebuild(config, name, text, fds)?;
    args.init_str = given.to_owned();
    Bridge::new(rebuilt, own)
}

#[cfg(test)]
mod tests {
    use netgraft_plugin::Wrappers;
    use netgraft_plugin::faults::LinkFaults;

    use super::*;

    fn bridged() -> StackConfig {
        let wrappers = Wrappers::of_faults(LinkFaults::both("loss=1%".parse().unwrap()), 1);
        StackConfig { link: LinkConfig::tap("t0".parse().unwrap()), wrappers, ..StackConfig::default() }
    }

    #[test]
    fn only_a_wrapped_link_has_a_bridge() {
        assert!(is_bridged(&bridged()));
        assert!(!is_bridged(&StackConfig { link: LinkConfig::None, ..bridged() }));
        assert!(!is_bridged(&StackConfig { wrappers: Wrappers::default(), ..bridged() }));
        let passt = StackConfig { link: LinkConfig::passt(None), ..StackConfig::default() };
        assert!(is_bridged(&passt), "it is no device");
        let open = open(&passt).unwrap().unwrap();
        assert_eq!(open.text, "tap passt 00:00:00:00:00:00 1500");
        let handed = open.prepend_to(PreInitStack { init_str: "x".to_owned(), fds: Vec::new() });
        assert_eq!(
            (handed.init_str.as_str(), handed.fds.len()),
            ("passt passt 00:00:00:00:00:00 1500\nx", 1)
        );
    }

    #[test]
    fn a_handover_that_is_not_of_a_bridge_is_refused() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for (text, count) in
            [("tap t0 02:00:00:00:00:01 1500", 2), ("tap t0 02:00:00:00:00:01 1500\n", 1), ("x\n", 2)]
        {
            let fds = (0..count).map(|_| fd()).collect();
            let mut args = InitStackArgs { init_str: text.to_owned(), fds, ..InitStackArgs::default() };
            assert!(make_bridge(&bridged(), &mut args).is_err(), "{text:?}");
        }
        let fds = (0..4).map(|_| fd()).collect();
        let init_str = "tap t0 02:00:00:00:00:01 1500\nthe object's\ntext".to_owned();
        let mut args = InitStackArgs { init_str, fds, ..InitStackArgs::default() };
        assert!(make_bridge(&bridged(), &mut args).is_ok());
        assert_eq!((args.init_str.as_str(), args.fds.len()), ("the object's\ntext", 2));
    }
}
