//! Randomness from the kernel.

/// Fills an array with random bytes (getrandom(2)).
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// `n` random bytes as lower-case hexadecimal.
pub fn hex(n: usize) -> String {
    use std::fmt::Write as _;
    let mut bytes = vec![0; n];
    fill(&mut bytes);
    bytes.iter().fold(String::with_capacity(2 * n), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}

fn fill(mut rest: &mut [u8]) {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        return world.random(rest);
    }
    while !rest.is_empty() {
        // SAFETY: the pointer and the length describe `rest`, which is ours to write.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => rest = &mut rest[got..],
            Err(_) => {
                let error = std::io::Error::last_os_error();
                // Keys and tokens are made of this: there is nothing to go on with.
                assert!(error.kind() == std::io::ErrorKind::Interrupted, "getrandom failed: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_differ_and_hex_has_its_length() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
        let text = super::hex(20);
        assert_eq!(text.len(), 40);
        assert!(text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{text}");
        assert_eq!(super::hex(0), "");
    }
}
