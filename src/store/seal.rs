//! The checksum of a backup: one line behind the last page of the database.
//!
//! SQLite goes by the number of pages in a database's header, and does not look behind them: so a backup is a database that any
//! SQLite reads, and one file, which nobody can copy without its checksum.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The line begins so; then 64 hexadecimal digits, and a line's end.
const BEGIN: &[u8] = b"\nhakuriver backup 1, sha256 ";
const LINE: usize = BEGIN.len() + 64 + 1;
/// What is read at once.
const PART: usize = 1 << 20;

/// Why a file's seal does not hold.
#[derive(Debug)]
pub(super) enum SealFault {
    /// It has none: it is no backup, or its end is cut off.
    Missing,
    /// It is another one's: the content was changed.
    Broken,
    Io(io::Error),
}

/// Adds the seal to what is in the file; the answer is the length of all.
pub(super) fn seal(file: &mut File) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let digest = copy(file, &mut io::sink(), length)?;
    // Copying has left the position at the end.
    file.write_all(&line(&digest))?;
    Ok(length + LINE as u64)
}

/// Copies what is sealed, without the seal; the answer is its length.
pub(super) fn open(file: &mut File, to: &mut impl Write) -> Result<u64, SealFault> {
    let all = file.seek(SeekFrom::End(0)).map_err(SealFault::Io)?;
    let length = all.checked_sub(LINE as u64).ok_or(SealFault::Missing)?;
    let mut found = [0; LINE];
    file.seek(SeekFrom::Start(length)).and_then(|_| file.read_exact(&mut found)).map_err(SealFault::Io)?;
    if !found.starts_with(BEGIN) {
        return Err(SealFault::Missing);
    }
    let digest = file.rewind().and_then(|()| copy(file, to, length)).map_err(SealFault::Io)?;
    if found == *line(&digest) { Ok(length) } else { Err(SealFault::Broken) }
}

/// Is the file a backup, whole or not?
pub(super) fn is_sealed(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let Some(at) = file.seek(SeekFrom::End(0))?.checked_sub(LINE as u64) else { return Ok(false) };
    let mut begin = [0; BEGIN.len()];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut begin)?;
    Ok(begin == *BEGIN)
}

fn line(digest: &[u8]) -> Vec<u8> {
    let mut line = BEGIN.to_vec();
    for byte in digest {
        line.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    line.push(b'\n');
    line
}

/// Copies `length` bytes; the answer is their SHA-256.
fn copy(from: &mut File, to: &mut impl Write, length: u64) -> io::Result<Vec<u8>> {
    let mut sha = Sha256::new();
    let mut part = vec![0; PART];
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).map_or(PART, |left| left.min(PART));
        let got = match from.read(&mut part[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            Err(fault) => return Err(fault),
        };
        sha.update(&part[..got]);
        to.write_all(&part[..got])?;
        left -= got as u64;
    }
    Ok(sha.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn what_is_sealed_comes_out_as_it_was_and_any_change_is_seen() {
        let scratch = Scratch::new();
        let path = scratch.path().join("sealed");
        for content in [&b""[..], b"x", &[7; PART], &[9; PART + 1]] {
            std::fs::write(&path, content).expect("written");
            let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
            assert_eq!(seal(&mut file).expect("sealed"), (content.len() + LINE) as u64);
            let mut copy = Vec::new();
            assert_eq!(open(&mut file, &mut copy).expect("whole"), content.len() as u64);
            assert_eq!(copy, content);
        }
        let whole = std::fs::read(&path).expect("read");
        let opened = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            open(&mut File::open(&path).expect("opened"), &mut Vec::new())
        };
        for length in [0, 1, LINE - 1, LINE, PART, whole.len() - LINE, whole.len() - 1] {
            assert!(opened(&whole[..length]).is_err(), "cut off after {length}");
        }
        for at in [0, PART / 2, PART, whole.len() - LINE, whole.len() - 30, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            assert!(opened(&changed).is_err(), "changed at {at}");
        }
        assert!(matches!(opened(&[0; 5_000]), Err(SealFault::Missing)));
        assert!(opened(&whole).is_ok());
    }
}
