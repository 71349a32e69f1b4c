//! What a system call's arguments mean, and what its results look like in the program's memory.
//!
//! Everything here works on bytes and numbers that were copied from the program, and gives bytes and numbers
//! to be copied back. The program's input is checked here, once; what leaves is valid. Layouts are those of
//! 64-bit little-endian Linux.

pub mod call;
pub mod ioctl;
pub mod kept;
pub mod message;
pub mod sockaddr;
pub mod sockopt;
