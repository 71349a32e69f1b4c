//! Tests of the core as a whole, on a kernel and a stack in memory.

mod fake;

mod accept;
mod answers;
mod budget;
mod connect;
mod datagram;
mod host;
mod join;
mod journal;
mod limits;
mod listen;
mod members;
mod names;
mod options;
mod parked;
mod random;
mod receive;
mod restore;
mod route;
mod send;
mod shutdown;
mod stack;
mod stream;
