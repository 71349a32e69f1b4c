//! Tests of the core as a whole, on a kernel and a stack in memory.

mod fake;

mod accept;
mod answers;
mod connect;
mod datagram;
mod listen;
mod names;
mod options;
mod parked;
mod receive;
mod send;
mod shutdown;
mod stream;
