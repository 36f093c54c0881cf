//! `POST /submit`

use sha2::{Digest, Sha256};

use crate::api::submit;
use crate::net::http::Reply;

use super::super::engine::{ActFault, Submitted};
use super::super::submission;
use super::runner::undecoded;
use super::{Api, unreadable};

impl Api {
    pub(super) fn submit(&self, body: &[u8]) -> Result<Reply, ActFault> {
        let asked = submit::decode(body).map_err(undecoded)?;
        let hash = Sha256::digest(body).to_vec();
        let key = asked.idempotency_key.clone();
        let parsed = submission::parse(asked, hash.clone(), &self.rules, &|name| self.environments.require(name));
        match parsed {
            Ok(submission) => {
                let Submitted(body) = self.engine.submit(submission)?;
                Ok(Reply::json(202, body))
            }
            // It was taken once, when its environment was still there, say, and is asked again.
            Err(fault) => {
                match key.as_deref().map(|key| self.readers.kept_answer(key)).transpose().map_err(unreadable)? {
                    Some(Some(kept)) if kept.body_hash == hash => Ok(Reply::json(202, kept.answer)),
                    _ => Err(fault),
                }
            }
        }
    }
}
