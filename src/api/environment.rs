//! The bodies about environments: containers on the Host, and the tarballs that are packed of them.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::collections::BTreeMap;

use nanoserde::{DeJson, SerJson};

/// One item of `GET /docker/host/containers`.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct ContainerRow {
    /// The first digits, as `docker ps` shows them.
    pub id: String,
    pub name: String,
    pub image: String,
    /// In Docker's words: `Up 3 minutes`, `Exited (0) 2 hours ago`.
    pub status: String,
}

/// The body of `POST /docker/host/create`.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct CreateBody {
    pub image_name: String,
    pub container_name: String,
}

/// The body of `POST /docker/create_tar/{name}`, which may be absent.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct PackBody {
    /// What the version is to be known by; kept in its manifest (addition to 0.3).
    pub label: Option<String>,
}

/// The answer to `POST /docker/create_tar/{name}`.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct PackAnswer {
    pub message: String,
    /// On the Host.
    pub tarball_path: String,
}

/// `GET /docker/list`, by environment.
pub type Tarballs = BTreeMap<String, TarballsRow>;

/// One environment.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct TarballsRow {
    pub latest_timestamp: u64,
    /// File name.
    pub latest_tarball: String,
    /// The newest first.
    pub all_versions: Vec<VersionRow>,
    /// The nodes that have the newest one ready (addition to 0.3).
    pub nodes: Vec<String>,
}

/// One version.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct VersionRow {
    /// Seconds since 1970.
    pub timestamp: u64,
    /// File name.
    pub tarball: String,
    /// Bytes (addition to 0.3).
    pub size: u64,
    /// What the one who packed it wrote about it (addition to 0.3).
    pub label: Option<String>,
}

/// One line of an answer that tells how far it is (`?progress=1`, an addition to 0.3): lines with `progress`, then one with `status`
/// and what the answer would have been without.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct ProgressLine {
    pub progress: Option<String>,
    /// The HTTP status that it would have been.
    pub status: Option<u16>,
    pub message: Option<String>,
    pub tarball_path: Option<String>,
    /// With a status of 400 and more.
    pub detail: Option<String>,
}
