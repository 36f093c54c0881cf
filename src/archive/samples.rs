//! Archives for tests.

use sha2::{Digest as _, Sha256};

use super::digest_text;
use super::tar::header;

/// `sha256:…` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

/// A member of a tar file.
pub(crate) fn member(name: &str, content: &[u8]) -> Vec<u8> {
    typed(name, b'0', "", content)
}

/// A member of any type, whose header has a right sum.
pub(crate) fn typed(name: &str, flag: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut head = header(name, content.len() as u64);
    head[156] = flag;
    head[157..157 + link.len()].copy_from_slice(link.as_bytes());
    head[148..156].fill(b' ');
    let sum: u64 = head.iter().map(|byte| u64::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = [head.to_vec(), content.to_vec()].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An image of these layers, laid out as Docker 20.10 does: a folder for each layer, and a link where one comes again.
pub(crate) struct Saved {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) tag: String,
}

impl Saved {
    pub(crate) fn new(tag: &str, layers: &[&[u8]]) -> Self {
        Self { layers: layers.iter().map(|layer| layer.to_vec()).collect(), tag: tag.to_owned() }
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let ids: Vec<String> = self.layers.iter().map(|layer| format!("\"{}\"", digest(layer))).collect();
        format!("{{\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}", ids.join(",")).into_bytes()
    }

    pub(crate) fn id(&self) -> String {
        digest(&self.config())
    }

    pub(crate) fn list(&self) -> String {
        format!("[{}]", self.row())
    }

    /// Its entry in a list.
    pub(crate) fn row(&self) -> String {
        let paths: Vec<String> = (0..self.layers.len()).map(|at| format!("\"v{at}/layer.tar\"")).collect();
        let hex = self.id().split_off("sha256:".len());
        format!("{{\"Config\":\"{hex}.json\",\"RepoTags\":[\"{}\"],\"Layers\":[{}]}}", self.tag, paths.join(","))
    }

    /// All members but the list.
    pub(crate) fn members(&self) -> Vec<u8> {
        let mut bytes = member(&format!("{}.json", &self.id()["sha256:".len()..]), &self.config());
        for (at, layer) in self.layers.iter().enumerate() {
            bytes.extend(typed(&format!("v{at}/"), b'5', "", b""));
            bytes.extend(member(&format!("v{at}/VERSION"), b"1.0"));
            let name = format!("v{at}/layer.tar");
            bytes.extend(match self.layers[..at].iter().position(|before| before == layer) {
                Some(before) => typed(&name, b'2', &format!("../v{before}/layer.tar"), b""),
                None => member(&name, layer),
            });
        }
        bytes
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        [self.members(), member("manifest.json", self.list().as_bytes()), vec![0; 1024]].concat()
    }
}
