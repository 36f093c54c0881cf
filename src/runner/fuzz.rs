//! Any bytes as what a node's supervisor, a container and Docker say to the Runner.

use super::executor::Owner;
use super::executor::docker_parse::{self, Container};
use super::supervise::box_file::{BoxFile, ExitFile};
use super::supervise::frame;
use super::supervise::protocol::{Ask, Tell};
use crate::api::json::fuzz::{tree, wire};
use crate::domain::docker_words;

pub(crate) use super::inventory::gpu::fuzz::output as nvidia_smi;
pub(crate) use super::supervise::node::journal::fuzz::journal;

/// Frames, however they are cut: the same come out as out of all at once.
pub(crate) fn frames(bytes: &[u8]) {
    let all = taken_out(bytes.chunks(bytes.len().max(1)));
    let step = usize::from(bytes.last().copied().unwrap_or(0) % 7) + 1;
    assert_eq!(taken_out(bytes.chunks(step)), all, "in pieces of {step}");
    let mut put = Vec::new();
    for text in &all.0 {
        frame::put(&mut put, text);
        message(text);
    }
    assert!(bytes.starts_with(&put), "frames that nobody sent");
    message(bytes);
}

/// All whole frames, and whether one was refused.
fn taken_out<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let (mut incoming, mut texts) = (Vec::new(), Vec::new());
    for piece in pieces {
        incoming.extend_from_slice(piece);
        loop {
            match frame::next(&mut incoming) {
                Ok(Some(text)) => texts.push(text),
                Ok(None) => break,
                Err(_) => return (texts, true),
            }
        }
    }
    (texts, false)
}

fn message(text: &[u8]) {
    let is_valid = tree(text);
    wire::<Ask>(text, is_valid);
    wire::<Tell>(text, is_valid);
    wire::<BoxFile>(text, is_valid);
    wire::<ExitFile>(text, is_valid);
}

/// What `docker` prints, in every form that is read.
pub(crate) fn docker(bytes: &[u8]) {
    let owner = Owner { cluster: "c".to_owned(), node: "n".to_owned() };
    if let Ok(containers) = docker_parse::inspected(bytes, &owner) {
        for Container { id, published, .. } in containers {
            assert!(published.is_none_or(|(_, port)| port > 0), "port 0 of {id:?} is no port");
        }
    }
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Some(event) = docker_parse::event(line) {
            assert!(event.exit_code.is_none() || event.action == docker_parse::DockerAction::Die);
        }
    }
    let _config = docker_parse::image_config(bytes);
    for chain in docker_parse::chains(bytes) {
        assert!(chain.len() <= bytes.len());
    }
    for (id, _) in docker_parse::listed(bytes) {
        assert!(!id.contains(['\t', '\n']));
    }
    let _kind = docker_words::complaint(&text);
    let plain = docker_words::plain(&text);
    assert!(!plain.contains('\n') && plain.len() <= 2 * text.len(), "{plain:?}");
}
