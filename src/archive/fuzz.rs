//! Any bytes as a tarball of an image, and as the manifest beside one.

use std::fs::File;
use std::io::{Cursor, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tar::{Kind, Members};
use super::{Check, Image, Manifest, Part, is_digest, names};

const BLOCK: usize = 512;

/// As they are, and with the sums of their headers put right: a changed byte would else hardly ever come further than that.
pub(crate) fn tarball(bytes: &[u8]) {
    tarball_as_it_is(bytes);
    let mut mended = bytes.to_vec();
    for header in mended.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if mended != bytes {
        tarball_as_it_is(&mended);
    }
}

fn tarball_as_it_is(bytes: &[u8]) {
    let Ok(members) = Members::read(&mut Cursor::new(bytes)) else { return };
    for member in &members.all {
        assert!(member.content.checked_add(member.size).is_some_and(|end| end <= bytes.len() as u64), "{member:?}");
        let is_within = !member.name.starts_with('/') && !member.name.split('/').any(|part| part == "..");
        assert!(is_within, "{:?} leads out", member.name);
        // A link leads to a file of the same archive, or nowhere.
        let led = members.file(&member.name);
        assert!(led.is_none_or(|found| found.kind == Kind::File && members.all.contains(found)));
    }
    let scratch = Scratch::of(bytes);
    let mut file = File::open(&scratch.0).expect("it was written just now");
    let Ok(image) = Image::read(&mut file, "hakuriver/x:base") else {
        assert!(Manifest::describe(&scratch.0, "x", 17).is_err(), "what cannot be read is described");
        return;
    };
    let Ok(manifest) = Manifest::describe(&scratch.0, "x", 17) else { return };
    assert_eq!(Manifest::decode(manifest.to_json().as_bytes()).as_ref(), Ok(&manifest));
    for lowest in 0..=manifest.layers.len().min(3) {
        let part = Part::without(&manifest, lowest);
        let (mut all, mut buffer) = (Vec::new(), vec![0; 4_000]);
        let mut check = Check::new(&part);
        loop {
            let count = part.read_at(&file, &image, all.len() as u64, &mut buffer).expect("it was described just now");
            if count == 0 {
                break;
            }
            check.take(&buffer[..count]).expect("it is what it has to be");
            all.extend_from_slice(&buffer[..count]);
        }
        assert!(check.is_whole() && all.len() as u64 == part.length());
        // What is sent on names the same image, and nothing of it by another's choice.
        let sent = Scratch::of(&all);
        let mut sent = File::open(&sent.0).expect("it was written just now");
        let rest = Image::read_rest(&mut sent, "hakuriver/x:base", lowest).expect("an image");
        assert_eq!((rest.id.as_str(), rest.layers.len()), (image.id.as_str(), image.layers.len() - lowest));
        let members = Members::read(&mut Cursor::new(&all)).expect("a tar file");
        assert!(members.all.iter().all(|member| member.kind == Kind::File));
    }
}

/// As a manifest: its sums stay within their type.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some((env, stamp)) = names::split(text)
    {
        assert!(text.starts_with(&env) && text.ends_with(".tar"));
        assert_eq!(names::split(&names::file_name(&env, stamp)), Some((env, stamp)));
    }
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert_eq!(Manifest::decode(manifest.to_json().as_bytes()).as_ref(), Ok(&manifest));
    assert!(is_digest(&manifest.image_id) && is_digest(&manifest.sha256) && manifest.layers.len() <= 200);
    let chain: Vec<String> = manifest.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    assert_eq!(manifest.shared(&chain), manifest.layers.len());
    for lowest in 0..=manifest.layers.len() {
        assert!(Part::without(&manifest, lowest).length() < 1 << 60);
    }
}

/// A file that is gone again when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn of(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hakuriver-fuzz-{}-{number}", std::process::id()));
        let mut file = File::create(&path).expect("a temporary file can be made");
        file.write_all(bytes).expect("it can be written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = crate::sys::file::remove(&self.0);
    }
}
