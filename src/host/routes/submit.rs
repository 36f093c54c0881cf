//! `POST /submit`

use sha2::{Digest, Sha256};

use crate::api::submit;
use crate::domain::spec::TaskKind;
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
        // The engine would take them; the Runners of this version do not run them.
        if submission.tasks.iter().any(|(_, spec)| matches!(spec.kind, TaskKind::Command { .. })) {
            return Err(ActFault::new(501, "command tasks are not served by this version of HakuRiver; VPS tasks are"));
        }
        let Submitted(body) = self.engine.submit(submission)?;
        Ok(Reply::json(202, body))
    }
}
