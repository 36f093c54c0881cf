//! Where the last lines of a text begin.

use std::io;

use super::Reading;

/// What is read at once, from the end towards the beginning.
const PART: u64 = 64 << 10;

/// Where the last `lines` lines of the first `length` bytes begin. What stands after the last line's end is a line too.
pub(in crate::host) fn start_of_last_lines(file: &Reading, length: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(length);
    }
    let (mut end, mut found) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(PART);
        let Some(part) = read_exact(file, start, end)? else {
            // It was begun anew meanwhile.
            return Ok(0);
        };
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + index as u64 + 1;
            // The end of the last line begins no other.
            if after == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The bytes between two places; None: there are not as many.
fn read_exact(file: &Reading, mut start: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    while start < end {
        let mut part = vec![0; usize::try_from(end - start).expect("at most 64 KiB")];
        let count = file.read_at(&mut part, start)?;
        if count == 0 {
            return Ok(None);
        }
        all.extend_from_slice(&part[..count]);
        start += count as u64;
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::directory::Directory;
    use crate::sys::file::Scratch;

    #[test]
    fn the_last_lines_are_found_across_parts() {
        let long = format!("{}\nlast\n", "x".repeat(200_000));
        let scratch = Scratch::new();
        for (text, lines, expected) in [
            ("", 3, 0),
            ("a\nb\nc\n", 1, 4),
            ("a\nb\nc\n", 2, 2),
            ("a\nb\nc\n", 3, 0),
            ("a\nb\nc\n", 9, 0),
            ("a\nb\nc", 1, 4),
            ("a\nb\nc", 2, 2),
            ("a\n\n\n", 1, 3),
            ("a\n\n\n", 2, 2),
            ("\n", 1, 0),
            ("a\nb\n", 0, 4),
            (&long, 1, 200_001),
            (&long, 2, 0),
        ] {
            let path = scratch.path().join("text");
            std::fs::write(&path, text).expect("written");
            let file = std::fs::File::open(&path).expect("there");
            let file = Reading(Directory::shared(scratch.path()).hold(file));
            let found = start_of_last_lines(&file, text.len() as u64, lines).expect("readable");
            assert_eq!(found, expected, "{lines} lines of {} bytes", text.len());
        }
    }
}
