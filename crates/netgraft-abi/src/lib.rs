//! The C interface between netgraft and stacks of third parties.
