//! Linux socket semantics on a plugin stack: what a system call's arguments mean, and what its results look
//! like in the program's memory.
//!
//! Everything here works on bytes and numbers that were copied from the program, and gives bytes and numbers
//! to be copied back: no I/O, no clock. The program's input is checked here, once; what leaves is valid.
//! Layouts are those of 64-bit little-endian Linux.
#![forbid(unsafe_code)]

pub mod call;
pub mod ioctl;
pub mod message;
pub mod sockaddr;
pub mod sockopt;

/// An errno value, positive.
pub type Errno = i32;
