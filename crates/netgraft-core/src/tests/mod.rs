//! Tests of the core as a whole, on a kernel and a stack in memory.

mod fake;

mod accept;
mod connect;
mod datagram;
mod listen;
mod receive;
mod send;
mod shutdown;
mod stream;
