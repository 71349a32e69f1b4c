//! Devices that carry frames: TUN/TAP and AF_PACKET.
