//! `POST /submit`

use sha2::{Digest, Sha256};

use crate::api::submit;
use crate::net::http::Reply;

use super::super::engine::{ActFault, Submitted};
use super::super::submission;
use super::Api;
use super::runner::undecoded;

impl Api {
    pub(super) fn submit(&self, body: &[u8]) -> Result<Reply, ActFault> {
        let asked = submit::decode(body).map_err(undecoded)?;
        let hash = Sha256::digest(body).to_vec();
        let submission = submission::parse(asked, hash, &self.rules, &|name| self.environments.require(name))?;
        let Submitted(body) = self.engine.submit(submission)?;
        Ok(Reply::json(202, body))
    }
}
