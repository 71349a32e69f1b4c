//! Tags of VLANs (IEEE 802.1Q) in frames: four bytes behind the addresses, of which twelve bits are the VLAN's number.

use super::vnet;

/// Where a tag stands, and how long it is.
const AT: usize = 12;
pub(super) const LEN: usize = 4;
/// The types of tagged frames (IEEE 802.1Q, and 802.1ad for an outer tag).
const TYPES: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// The bits of the VLAN's number; the others are a priority.
pub(super) const NUMBER: u16 = 0x0fff;

/// The tag of a VLAN, without a priority.
pub(super) fn tag(vlan: u16) -> [u8; LEN] {
    let [high, low] = (vlan & NUMBER).to_be_bytes();
    [0x81, 0x00, high, low]
}

/// Takes the tag out of a frame that has come, and answers the frame; `None` if it is of another VLAN than this. A tag with the
/// number 0 has a priority alone.
pub(super) fn strip(frame: &mut [u8], vlan: Option<u16>) -> Option<&mut [u8]> {
    let tagged = frame.get(AT..AT + 2).is_some_and(|kind| TYPES.iter().any(|tagged| tagged == kind));
    if !tagged {
        return vlan.is_none().then_some(frame);
    }
    let number = u16::from_be_bytes(*frame.get(AT + 2..)?.first_chunk()?) & NUMBER;
    if number != vlan.unwrap_or(0) {
        return None;
    }
    frame.copy_within(..AT, LEN);
    frame.get_mut(LEN..)
}

/// Says in the header of a frame that it has become longer by a tag.
pub(super) fn shift(header: &mut [u8; vnet::LEN]) {
    // How long the headers are, and where the checksum begins: 0 if they are not said.
    for at in [2, 6] {
        let said = u16::from_ne_bytes([header[at], header[at + 1]]);
        if said != 0 {
            header[at..at + 2].copy_from_slice(&(said + LEN as u16).to_ne_bytes());
        }
    }
}

/// Inserts a tag behind the addresses of the frame that begins at `start`.
pub(super) fn insert(frames: &mut Vec<u8>, start: usize, vlan: u16) {
    let at = start + AT;
    if at <= frames.len() {
        frames.splice(at..at, tag(vlan));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(behind: &[u8]) -> Vec<u8> {
        [&[1; 6], &[2; 6], behind].concat()
    }

    #[test]
    fn a_frame_is_of_one_vlan_and_its_tag_goes_with_it() {
        let plain = frame(&[8, 0, 0x45, 7]);
        for (vlan, priority) in [(5, 0), (5, 0xe0), (4094, 0)] {
            let mut tagged = plain.clone();
            insert(&mut tagged, 0, vlan);
            tagged[14] |= priority;
            assert_eq!(tagged.len(), plain.len() + LEN);
            assert_eq!(strip(&mut tagged.clone(), None), None);
            assert_eq!(strip(&mut tagged.clone(), Some(6)), None);
            assert_eq!(strip(&mut tagged, Some(vlan)).unwrap(), plain);
        }
        assert_eq!(strip(&mut plain.clone(), None).unwrap(), plain);
        assert_eq!(strip(&mut plain.clone(), Some(5)), None);
        // A priority alone.
        assert_eq!(strip(&mut frame(&[0x81, 0, 0xe0, 0, 8, 0, 0x45, 7]), None).unwrap(), plain);
        // Two tags: of another kind of network.
        let outer = frame(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5, 8, 0]);
        assert_eq!(strip(&mut outer.clone(), Some(5)), None);
    }

    #[test]
    fn short_frames_are_no_vlans() {
        for len in 0..20 {
            let mut cut = frame(&[0x81, 0, 0, 5, 8, 0, 0x45, 7]);
            cut.truncate(len);
            let stripped = strip(&mut cut, Some(5)).map(|frame| frame.len());
            assert_eq!(stripped, len.checked_sub(16).map(|_| len - LEN), "{len}");
        }
        let mut nothing = vec![0; 11];
        insert(&mut nothing, 0, 5);
        assert_eq!(nothing, [0; 11]);
    }

    #[test]
    fn a_header_says_where_things_are_behind_the_tag() {
        let mut header = [0; vnet::LEN];
        shift(&mut header);
        assert_eq!(header, [0; vnet::LEN]);
        header[2..4].copy_from_slice(&54u16.to_ne_bytes());
        header[6..8].copy_from_slice(&34u16.to_ne_bytes());
        shift(&mut header);
        assert_eq!(
            (header[2..4].to_vec(), header[6..8].to_vec()),
            (58u16.to_ne_bytes().to_vec(), 38u16.to_ne_bytes().to_vec())
        );
    }
}
