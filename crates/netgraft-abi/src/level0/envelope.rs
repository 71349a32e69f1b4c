//! What pre-init hands over, as one text: the object's own, and at which places of its descriptors there are none.
//!
//! A descriptor of -1 cannot travel between processes, but its place matters: `plugin_initstack` is given the same
//! array, -1 included. The object's text may have any bytes but zero, and the contract's is UTF-8.

/// The beginning of an envelope.
const MARK: &str = "level0 ";
/// The most descriptors that an object hands over.
pub(crate) const FDS: usize = 200;

/// Writes an envelope for descriptors of which `present` says where there is one.
pub(crate) fn seal(text: &[u8], present: &[bool]) -> String {
    let mut envelope = String::from(MARK);
    envelope.extend(present.iter().map(|there| if *there { '+' } else { '-' }));
    envelope.push('\n');
    for &byte in text {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => envelope.push_str(&format!("%{byte:02x}")),
            _ => envelope.push(byte.into()),
        }
    }
    envelope
}

/// Opens one; `None` if it is none.
pub(crate) fn open(envelope: &str) -> Option<(Vec<u8>, Vec<bool>)> {
    let (head, body) = envelope.strip_prefix(MARK)?.split_once('\n')?;
    let present = head
        .chars()
        .map(|c| match c {
            '+' => Some(true),
            '-' => Some(false),
            _ => None,
        })
        .collect::<Option<Vec<bool>>>()?;
    let mut text = Vec::with_capacity(body.len());
    let mut rest = body.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = str::from_utf8(rest.get(..2)?).ok()?;
            text.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
            rest = &rest[2..];
        } else {
            text.push(*first);
        }
    }
    (present.len() <= FDS).then_some((text, present))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_out_again() {
        let text = b"ENV:KEY=100%,B=\xff\n;\x01";
        for present in [vec![], vec![true, false, true], vec![false]] {
            let envelope = seal(text, &present);
            assert!(envelope.is_ascii());
            assert_eq!(open(&envelope), Some((text.to_vec(), present)));
        }
    }

    #[test]
    fn other_texts_are_no_envelopes() {
        let many = format!("level0 {}\n", "+".repeat(FDS + 1));
        for text in
            ["", "level0 ", "level0 x\n", "level0 \n%", "level0 \n%0", "level0 \n%zz", "level0 \n%00", &many]
        {
            assert_eq!(open(text), None, "{text:?}");
        }
        assert_eq!(open("level0 \n"), Some((vec![], vec![])));
    }
}
