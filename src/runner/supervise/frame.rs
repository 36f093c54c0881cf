//! Frames on the socket between Runner and supervisor: four bytes of length, little-endian, then so many bytes of JSON.

/// A submission has 16 MiB at most, and JSON may double it; an inventory of 100,000 tasks has some 30 MB.
const LARGEST: usize = 64 << 20;

/// Takes the first whole frame out of what has come; None: there is none yet.
///
/// # Errors
/// It claims to be larger than any that we send.
pub fn next(incoming: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let Some(length) = incoming.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > LARGEST {
        return Err(format!("a message of {length} bytes is announced, and {LARGEST} is the most"));
    }
    if incoming.len() < 4 + length {
        return Ok(None);
    }
    let text = incoming[4..4 + length].to_vec();
    incoming.drain(..4 + length);
    Ok(Some(text))
}

/// Adds a frame.
pub fn put(outgoing: &mut Vec<u8>, text: &[u8]) {
    let length = u32::try_from(text.len()).expect("a message is far below 4 GiB");
    outgoing.extend_from_slice(&length.to_le_bytes());
    outgoing.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut stream = Vec::new();
        for text in [&b"one"[..], b"", b"three"] {
            put(&mut stream, text);
        }
        let (mut incoming, mut got) = (Vec::new(), Vec::new());
        for byte in stream {
            incoming.push(byte);
            while let Some(text) = next(&mut incoming).expect("small frames") {
                got.push(text);
            }
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
        assert!(next(&mut vec![0xff; 8]).is_err());
    }
}
