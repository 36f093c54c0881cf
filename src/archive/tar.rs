//! The members of a tar file (POSIX ustar), found by seeking from header to header.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use super::ArchiveFault;

/// Headers and contents fill whole blocks.
pub(super) const BLOCK: u64 = 512;
/// An image has tens of members; more than this is something else.
const MOST: usize = 10_000;
/// Their names are those of digests; longer ones, in bytes, are something else too.
const LONGEST_NAME: usize = 1 << 10;
/// A header of further attributes (pax) is no longer.
const LONGEST_ATTRIBUTES: u64 = 64 << 10;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A link to another member's name (hard), or to a path from where it stands (symbolic).
    Hard(String),
    Symbolic(String),
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where its content begins, and how long that is, in bytes.
    pub(super) content: u64,
    pub(super) size: u64,
}

/// All members, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub(super) all: Vec<Member>,
    by_name: HashMap<String, usize>,
}

impl Members {
    /// Reads the headers alone.
    ///
    /// # Errors
    /// It is truncated, no tar file, or has what an image's archive does not have: names that lead out of it, one name twice,
    /// devices, forms that other programs would read otherwise.
    pub(super) fn read(tar: &mut (impl Read + Seek)) -> Result<Self, ArchiveFault> {
        let unreadable = |fault: std::io::Error| ArchiveFault(format!("it cannot be read: {fault}"));
        let length = tar.seek(SeekFrom::End(0)).map_err(unreadable)?;
        let mut members = Self::default();
        let mut at = 0;
        let mut attributes = Attributes::default();
        loop {
            if members.all.len() >= MOST {
                return Err("it has more members than any image".into());
            }
            if at + BLOCK > length {
                return Err(if at == 0 { foreign() } else { "it is truncated".into() });
            }
            tar.seek(SeekFrom::Start(at)).map_err(unreadable)?;
            let mut header = [0; BLOCK as usize];
            tar.read_exact(&mut header).map_err(unreadable)?;
            if header.iter().all(|byte| *byte == 0) {
                return if members.all.is_empty() { Err(foreign()) } else { Ok(members) };
            }
            let (size, flag) = checked(&header)?;
            let said =
                if matches!(flag, b'x' | b'g') { Attributes::default() } else { std::mem::take(&mut attributes) };
            let size = said.size.unwrap_or(size);
            let content = at + BLOCK;
            let end = content.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK));
            let next = end.filter(|end| *end <= length).ok_or("it is truncated")?;
            at = next;
            if matches!(flag, b'x' | b'g') {
                if size > LONGEST_ATTRIBUTES {
                    return Err("it has attributes of its members that are too long".into());
                }
                let mut bytes = vec![0; usize::try_from(size).expect("checked just now")];
                tar.read_exact(&mut bytes).map_err(unreadable)?;
                // Those of all that follow ('g') tell how it was made, and nothing of one member.
                let read = Attributes::read(&bytes)?;
                if flag == b'x' {
                    attributes = read;
                }
                continue;
            }
            let link = |linked: Option<String>| linked.map_or_else(|| text(&header[157..257]), Ok);
            let kind = match flag {
                b'0' | 0 | b'7' => Kind::File,
                b'5' => Kind::Folder,
                b'1' => Kind::Hard(link(said.linkpath)?),
                b'2' => Kind::Symbolic(link(said.linkpath)?),
                other => {
                    return Err(format!("it has a member of type {:?}, which no image has", char::from(other)).into());
                }
            };
            let name = within(&said.path.map_or_else(|| name(&header), Ok)?)?;
            members.add(Member { name, kind, content, size })?;
        }
    }

    fn add(&mut self, member: Member) -> Result<(), ArchiveFault> {
        let link = match &member.kind {
            Kind::Hard(target) | Kind::Symbolic(target) => target.len(),
            Kind::File | Kind::Folder => 0,
        };
        if member.name.len().max(link) > LONGEST_NAME {
            return Err(format!("it has a member whose name is longer than {LONGEST_NAME} bytes").into());
        }
        // Later members of the same name would be other files to whoever unpacks it than to whoever looks it up.
        if member.kind != Kind::Folder && self.by_name.insert(member.name.clone(), self.all.len()).is_some() {
            return Err(format!("it has {:?} twice", member.name).into());
        }
        self.all.push(member);
        Ok(())
    }

    /// The regular file of that name; a link is followed, once.
    pub(super) fn file(&self, name: &str) -> Option<&Member> {
        let member = self.named(name)?;
        let target = match &member.kind {
            Kind::File => return Some(member),
            Kind::Folder => return None,
            Kind::Hard(target) => target.clone(),
            Kind::Symbolic(target) => beside(name, target)?,
        };
        self.named(&target).filter(|member| member.kind == Kind::File)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name).map(|at| &self.all[*at])
    }
}

fn foreign() -> ArchiveFault {
    "it is not a tarball of an image".into()
}

/// Size and type, of a header whose sum is right.
fn checked(header: &[u8; BLOCK as usize]) -> Result<(u64, u8), ArchiveFault> {
    if !header[257..].starts_with(b"ustar") {
        return Err(foreign());
    }
    if number(&header[148..156]) != Some(sum(header)) {
        return Err("it is damaged: the sum of a header is wrong".into());
    }
    Ok((number(&header[124..136]).ok_or_else(foreign)?, header[156]))
}

/// A member's name as its header has it.
fn name(header: &[u8; BLOCK as usize]) -> Result<String, ArchiveFault> {
    // GNU's form has no prefix, and other things in that place.
    let prefix = if header[257..].starts_with(b"ustar\0") { text(&header[345..500])? } else { String::new() };
    let name = text(&header[..100])?;
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// A name that stays within the archive.
fn within(name: &str) -> Result<String, ArchiveFault> {
    let plain = name.strip_prefix("./").unwrap_or(name).trim_end_matches('/');
    let leads_out = name.starts_with('/') || plain.split('/').any(|part| matches!(part, ".." | "." | ""));
    if leads_out && !matches!(name, "./" | ".") {
        return Err(format!("it has a member named {name:?}, which leads out of it").into());
    }
    Ok(plain.to_owned())
}

/// The file that a symbolic link leads to, within the archive.
fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!target.starts_with('/')).then(|| parts.join("/"))
}

fn text(field: &[u8]) -> Result<String, ArchiveFault> {
    let bytes = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).map_err(|_| "it has a member whose name is not UTF-8".into())
}

/// What a pax header says of the next member in place of its own header: what does not fit there.
#[derive(Debug, Default)]
struct Attributes {
    path: Option<String>,
    linkpath: Option<String>,
    size: Option<u64>,
}

impl Attributes {
    /// Of records "LENGTH KEY=VALUE\n". Times and owners change nothing here.
    fn read(bytes: &[u8]) -> Result<Self, ArchiveFault> {
        let damaged = || ArchiveFault::from("it is damaged: attributes of a member cannot be read");
        let mut read = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length > blank + 1 && *length <= rest.len()).ok_or_else(damaged)?;
            let record = rest[blank + 1..length].strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], std::str::from_utf8(&record[equals + 1..]));
            match (key, value) {
                (b"path", Ok(value)) => read.path = Some(value.to_owned()),
                (b"linkpath", Ok(value)) => read.linkpath = Some(value.to_owned()),
                (b"size", Ok(value)) => read.size = Some(value.parse().map_err(|_| damaged())?),
                (b"path" | b"linkpath" | b"size", Err(_)) => return Err(damaged()),
                _ if key.starts_with(b"GNU.sparse") => {
                    return Err("it has a member with holes, which no image has".into());
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(read)
    }
}

/// The header of a regular file, the same whenever it is made.
pub(super) fn header(name: &str, size: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    for owner in [108..115, 116..123] {
        header[owner].copy_from_slice(b"0000000");
    }
    if size < 1 << 33 {
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    // Six digits, a zero byte, a blank (POSIX).
    let sum = format!("{:06o}\0 ", sum(&header));
    header[148..156].copy_from_slice(sum.as_bytes());
    header
}

/// The sum of a header's bytes, made with blanks in its own place.
fn sum(header: &[u8; BLOCK as usize]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
    header.iter().enumerate().map(byte).sum()
}

/// A number of a header: octal digits; or, with the first bit set, binary (GNU, for 8 GiB and more).
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let fits = high.first() == Some(&0x80) && high[1..].iter().all(|byte| *byte == 0);
        return fits.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok()
}
