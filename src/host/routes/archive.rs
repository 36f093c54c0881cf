//! Environments on their way to nodes.

use crate::domain::ids::EnvName;
use crate::net::http::{Head, Reply};

use super::super::engine::ActFault;
use super::Api;

/// What is read and sent at once. A thousand readers that do not read may each hold so much.
const PART: usize = 64 << 10;
/// How long the whole answer to a question without an offset is, in bytes.
const LENGTH: &str = "hakuriver-length";

impl Api {
    /// `GET /environments/{name}`: what is known of the newest version.
    pub(super) fn environment(&self, name: &str) -> Result<Reply, ActFault> {
        let env = env_name(name)?;
        match self.archives.newest(&env)? {
            Some(manifest) => Ok(Reply::json(200, manifest.to_json())),
            None => Err(ActFault::new(404, format!("there is no environment '{env}' on the Host"))),
        }
    }

    /// `GET /environments/{name}/{version}?have=<diff ids>&offset=`: the archive, without the lowest layers if `have` names them in
    /// their order. The answer begins at `offset`, so that what broke off can be gone on with.
    pub(super) fn archive(&self, name: &str, version: u64, head: &Head) -> Result<Reply, ActFault> {
        let env = env_name(name)?;
        let have: Vec<String> = match head.query("have") {
            None | Some("") => Vec::new(),
            // The digits alone will do: two hundred of them have to fit into a head.
            Some(list) => {
                list.split(',').map(|id| format!("sha256:{}", id.strip_prefix("sha256:").unwrap_or(id))).collect()
            }
        };
        let offset = match head.query("offset") {
            None => 0,
            Some(text) => text.parse().map_err(|_| ActFault::new(422, "field 'offset': expected a number of bytes"))?,
        };
        let gone = || ActFault::new(404, format!("version {version} of '{env}' is not on the Host (any more)"));
        let (length, opened) = self.archives.part(&env, version, &have)?.ok_or_else(gone)?;
        if offset > length {
            return Err(ActFault::new(416, format!("field 'offset': there are {length} bytes")));
        }
        Ok(Reply::Stream {
            status: 200,
            content_type: "application/x-tar",
            headers: vec![(LENGTH, length.to_string())],
            write: Box::new(move |client| {
                let (mut at, mut buffer) = (offset, vec![0; PART]);
                loop {
                    let read;
                    (buffer, read) = opened.at(move |opened| {
                        let read = opened.read_at(at, &mut buffer);
                        (buffer, read)
                    })?;
                    match read? {
                        0 => return Ok(()),
                        count => {
                            client.write_all(&buffer[..count])?;
                            at += count as u64;
                        }
                    }
                }
            }),
        })
    }
}

fn env_name(name: &str) -> Result<EnvName, ActFault> {
    name.parse().map_err(|fault| ActFault::new(422, format!("the environment's name: {fault}")))
}
