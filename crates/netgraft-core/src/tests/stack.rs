//! When the stack is to be polled.

use netgraft_plugin::data::{Spare, Spill};
use netgraft_plugin::{
    Domain, Error, Handle, Kind, PluginStack, Protocol, RecvFlags, Result, SocketSpec, Streamed,
};

use super::fake::net::{Answer, Remote};
use super::fake::rig::{REMOTE, addr};
use super::fake::stack::FakeStack;
use crate::stack::Stack;

const NOW: netgraft_plugin::Instant = netgraft_plugin::Instant::ZERO;
const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };

/// A connected stream on which three bytes have come, behind a stack that has nothing to do.
fn received() -> (Stack, FakeStack, Handle) {
    let fake = FakeStack::default();
    fake.net().remotes.insert(addr(REMOTE), Answer::Accepts);
    let mut stack = Stack::new(Box::new(fake.clone()) as Box<dyn PluginStack>);
    let handle = stack.socket(TCP).unwrap();
    assert_eq!(stack.connect(handle, addr(REMOTE), NOW), Err(Error::InProgress));
    stack.poll(NOW);
    let remote: Remote = *fake.net().accepted.last().unwrap();
    fake.net().remote_sends(remote, b"abc").unwrap();
    assert!(!stack.is_due());
    (stack, fake, handle)
}

/// Takes all bytes through lent memory.
fn lent(stack: &mut Stack, handle: Handle) -> Result<Streamed> {
    let (mut scratch, mut spill) = ([0; 16], Spill::new());
    let spare = Spare { scratch: &mut scratch, spill: &mut spill };
    stack.recv_with(handle, NOW, spare, &mut |pieces| pieces.iter().map(|piece| piece.len()).sum())
}

#[test]
fn a_receive_that_takes_bytes_makes_the_stack_due() {
    let (mut stack, _, handle) = received();
    assert_eq!(stack.recv(handle, &mut [0; 2], RecvFlags::empty(), NOW).unwrap().len, 2);
    assert!(stack.is_due());
    stack.poll(NOW);
    assert!(!stack.is_due());
    assert_eq!(lent(&mut stack, handle), Ok(Streamed::Bytes(1)));
    assert!(stack.is_due());
}

#[test]
fn a_receive_that_takes_nothing_leaves_the_stack_alone() {
    let (mut stack, _, handle) = received();
    assert_eq!(stack.recv(handle, &mut [0; 2], RecvFlags::PEEK, NOW).unwrap().len, 2);
    assert_eq!(stack.recv(handle, &mut [], RecvFlags::empty(), NOW).map(|r| r.len), Err(Error::Again));
    assert!(!stack.is_due());
    assert!(stack.recv(handle, &mut [0; 3], RecvFlags::empty(), NOW).is_ok());
    stack.poll(NOW);
    assert_eq!(stack.recv(handle, &mut [0; 3], RecvFlags::empty(), NOW), Err(Error::Again));
    assert_eq!(lent(&mut stack, handle), Err(Error::Again));
    assert!(!stack.is_due());
}
