//! Amounts of memory: digits with an optional unit, 1000-based.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, above zero where it is a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Why a size was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeFault(String);

impl fmt::Display for SizeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory size {:?} is not valid: expected digits with an optional K, M, G or T (1000-based), such as 512M or 4G, and more than 0",
            self.0
        )
    }
}

impl FromStr for Bytes {
    type Err = SizeFault;

    fn from_str(text: &str) -> Result<Self, SizeFault> {
        let fault = || SizeFault(text.chars().take(40).collect());
        let (digits, factor) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
            Some(b'K') => (&text[..text.len() - 1], 1_000),
            Some(b'M') => (&text[..text.len() - 1], 1_000_000),
            Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
            Some(b'T') => (&text[..text.len() - 1], 1_000_000_000_000),
            _ => (text, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fault());
        }
        let number: u64 = digits.parse().map_err(|_| fault())?;
        match number.checked_mul(factor) {
            // The database and JSON carry it as a signed 64-bit integer.
            Some(bytes) if bytes > 0 && bytes <= i64::MAX as u64 => Ok(Self(bytes)),
            _ => Err(fault()),
        }
    }
}

impl fmt::Display for Bytes {
    /// The shortest exact form that parses back: `4G`, `1500M`, `123`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "K")]
            .into_iter()
            .find(|(factor, _)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or((1, ""));
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_1000_based() {
        for (text, bytes) in
            [("1", 1), ("512M", 512_000_000), ("4g", 4_000_000_000), ("8K", 8_000), ("2T", 2_000_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_the_form_is_named() {
        for bad in [
            "",
            "0",
            "-1",
            "+1",
            "1.5G",
            "4GB",
            "4Gi",
            "G",
            " 4G",
            "4 G",
            "0M",
            "99999999999999999999",
            "9223372036854775807K",
            "4Ğ",
        ] {
            let fault = bad.parse::<Bytes>().expect_err(bad);
            assert!(fault.to_string().contains("512M"), "{fault}");
        }
    }

    #[test]
    fn sizes_print_as_they_parse() {
        for text in ["4G", "1500M", "123", "7T", "1001"] {
            assert_eq!(text.parse::<Bytes>().expect(text).to_string(), text);
        }
    }
}
