//! Randomness from the kernel.

/// Fills an array with random bytes (getrandom(2)).
pub fn bytes<const N: usize>() -> [u8; N] {
    unimplemented!("sys")
}

/// `n` random bytes as lower-case hexadecimal.
pub fn hex(_n: usize) -> String {
    unimplemented!("sys")
}
