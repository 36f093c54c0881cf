//! An archive that lacks the layers which somebody has, for `docker load`. It is never made as a whole: headers and list are made
//! anew, the same at both ends, and contents are read where they lie. So it can be gone on with from any place, and whoever gets it
//! knows of each byte what it has to be.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::image::Image;
use super::tar::{BLOCK, header};
use super::{ArchiveFault, Manifest, digest_text, names};

/// What is left of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    segments: Vec<Segment>,
    length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Headers, the list of layers, what fills up a block.
    Made(Vec<u8>),
    Content {
        what: Content,
        size: u64,
        digest: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// By its place in the image, from the lowest on.
    Layer(usize),
    Config,
}

impl Segment {
    fn length(&self) -> u64 {
        match self {
            Self::Made(bytes) => bytes.len() as u64,
            Self::Content { size, .. } => *size,
        }
    }
}

impl Part {
    /// Without the `lowest` layers of the image; 0 is all of it. The list of layers comes last: of what breaks off before,
    /// Docker loads nothing.
    pub fn without(manifest: &Manifest, lowest: usize) -> Self {
        let mut part = Self { segments: Vec::new(), length: 0 };
        let mut there = BTreeSet::new();
        for (at, layer) in manifest.layers.iter().enumerate().skip(lowest) {
            // One that stands in the image twice is sent once.
            if there.insert(&layer.diff_id) {
                let content =
                    Segment::Content { what: Content::Layer(at), size: layer.size, digest: layer.digest.clone() };
                part.member(&layer_name(&layer.diff_id), layer.size, content);
            }
        }
        let config = config_name(&manifest.image_id);
        let size = manifest.config_size;
        let digest = manifest.image_id.clone();
        part.member(&config, size, Segment::Content { what: Content::Config, size, digest });
        let list = list(manifest);
        part.member("manifest.json", list.len() as u64, Segment::Made(list));
        // A tar file ends with two empty blocks.
        part.made(vec![0; 2 * BLOCK as usize]);
        part
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `offset` on, as far as there is something; `file` is the archive, with `image` in it. 0: it has
    /// ended.
    ///
    /// # Errors
    /// The io error; the archive is shorter than it was.
    pub fn read_at(&self, file: &File, image: &Image, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut begin = 0;
        for segment in &self.segments {
            let length = segment.length();
            let within = offset.saturating_sub(begin);
            begin += length;
            if offset >= begin {
                continue;
            }
            let most = usize::try_from(length - within).unwrap_or(usize::MAX).min(buffer.len());
            return match segment {
                Segment::Made(bytes) => {
                    let from = usize::try_from(within).expect("within what is in memory");
                    buffer[..most].copy_from_slice(&bytes[from..from + most]);
                    Ok(most)
                }
                Segment::Content { what, size, .. } => {
                    let (at, found) = match what {
                        Content::Config => image.config,
                        Content::Layer(at) => image.layers.get(*at).map_or((0, 0), |layer| (layer.content, layer.size)),
                    };
                    if found != *size {
                        return Err(io::Error::other("the archive is not the one that was described"));
                    }
                    match file.read_at(&mut buffer[..most], at + within)? {
                        0 if most > 0 => {
                            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is shorter than it was"))
                        }
                        count => Ok(count),
                    }
                }
            };
        }
        Ok(0)
    }

    fn member(&mut self, name: &str, size: u64, content: Segment) {
        self.made(header(name, size).to_vec());
        self.length += content.length();
        self.segments.push(content);
        let filling = size.next_multiple_of(BLOCK) - size;
        if filling > 0 {
            self.made(vec![0; usize::try_from(filling).expect("less than a block")]);
        }
    }

    fn made(&mut self, bytes: Vec<u8>) {
        self.length += bytes.len() as u64;
        match self.segments.last_mut() {
            Some(Segment::Made(before)) => before.extend(bytes),
            _ => self.segments.push(Segment::Made(bytes)),
        }
    }
}

/// The names of Docker's own archives, but after what is in the files.
fn layer_name(diff_id: &str) -> String {
    format!("{}/layer.tar", digits(diff_id))
}

fn config_name(image_id: &str) -> String {
    format!("{}.json", digits(image_id))
}

fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// manifest.json: one image, with our own tag. (Whoever packed the archive may have put any tag into it: `debian:latest`.)
fn list(manifest: &Manifest) -> Vec<u8> {
    let tags = names::repository(&manifest.name).map_or("null".to_owned(), |name| format!("[\"{name}:base\"]"));
    let layers: Vec<String> =
        manifest.layers.iter().map(|layer| format!("\"{}\"", layer_name(&layer.diff_id))).collect();
    let config = config_name(&manifest.image_id);
    format!("[{{\"Config\":\"{config}\",\"RepoTags\":{tags},\"Layers\":[{}]}}]\n", layers.join(",")).into_bytes()
}

/// Compares what comes with what it has to be.
pub struct Check {
    part: Part,
    segment: usize,
    within: u64,
    hash: Sha256,
}

impl Check {
    /// From the beginning on.
    pub fn new(part: &Part) -> Self {
        Self { part: part.clone(), segment: 0, within: 0, hash: Sha256::new() }
    }

    /// The next bytes. Contents are judged when they are whole.
    ///
    /// # Errors
    /// They are not what they have to be; one clause.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveFault> {
        while !bytes.is_empty() {
            let Some(segment) = self.part.segments.get(self.segment) else {
                return Err("more came than there is in it".into());
            };
            let rest = segment.length() - self.within;
            let (now, later) = bytes.split_at(usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len()));
            match segment {
                Segment::Made(made) => {
                    let from = usize::try_from(self.within).expect("within what is in memory");
                    if made[from..from + now.len()] != *now {
                        return Err("its frame is damaged".into());
                    }
                }
                Segment::Content { .. } => self.hash.update(now),
            }
            self.within += now.len() as u64;
            bytes = later;
            self.go_on()?;
        }
        Ok(())
    }

    /// Ends all that is whole.
    fn go_on(&mut self) -> Result<(), ArchiveFault> {
        while let Some(segment) = self.part.segments.get(self.segment).filter(|segment| segment.length() == self.within)
        {
            if let Segment::Content { what, digest, .. } = segment {
                let found = digest_text(&std::mem::take(&mut self.hash).finalize());
                if found != *digest {
                    let what = match what {
                        Content::Config => "its configuration".to_owned(),
                        Content::Layer(_) => format!("its layer {digest}"),
                    };
                    return Err(format!("{what} is damaged: the digest differs ({found})").into());
                }
            }
            (self.segment, self.within) = (self.segment + 1, 0);
        }
        Ok(())
    }

    /// Whether all of it came.
    pub fn is_whole(&self) -> bool {
        self.segment == self.part.segments.len()
    }
}

/// The part of an archive as it is read from its file, checked: bytes that are not what they have to be are not given out, nor
/// is the list of layers after them.
pub struct Reading {
    file: File,
    image: Image,
    check: Check,
    offset: u64,
    fault: Option<ArchiveFault>,
}

impl Reading {
    /// Of `image` in `file`.
    pub fn new(file: File, image: Image, part: &Part) -> Self {
        Self { file, image, check: Check::new(part), offset: 0, fault: None }
    }

    /// Why it ended early, if it was for what is in it.
    pub fn fault(&self) -> Option<&ArchiveFault> {
        self.fault.as_ref()
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.check.part.read_at(&self.file, &self.image, self.offset, buffer)?;
        if let Err(fault) = self.check.take(&buffer[..count]) {
            let text = fault.to_string();
            self.fault = Some(fault);
            return Err(io::Error::other(text));
        }
        self.offset += count as u64;
        Ok(count)
    }
}
