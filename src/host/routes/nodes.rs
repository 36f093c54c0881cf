//! Nodes for users.

use crate::api::json;
use crate::domain::ids::NodeName;
use crate::net::http::{Head, Reply};

use super::super::engine::ActFault;
use super::super::render;
use super::path::NodeVerb;
use super::{Api, answer, message, shorten};

impl Api {
    /// `GET /nodes`, encoded once for each change of a node.
    pub(super) fn nodes(&self) -> Reply {
        let body = self
            .engine
            .view
            .nodes_json(|nodes| json::encode(&nodes.iter().map(|node| render::node_row(node)).collect::<Vec<_>>()));
        Reply::Full { status: 200, content_type: "application/json", body }
    }

    /// `GET /health[?hostname=]`
    pub(super) fn health(&self, head: &Head) -> Result<Reply, ActFault> {
        let Some(name) = head.query("hostname") else { return Ok(answer(200, &self.history.show())) };
        let node = self.engine.view.node(&node_name(name)?);
        let node = node.ok_or_else(|| ActFault::new(404, format!("node '{name}' is not registered")))?;
        Ok(answer(200, &vec![render::health_row(&node)]))
    }

    /// `POST /node/{hostname}/drain|undrain|forget`
    pub(super) fn node_verb(&self, name: &str, verb: NodeVerb) -> Result<Reply, ActFault> {
        let name = node_name(name)?;
        let done = match verb {
            NodeVerb::Drain => self.engine.drain(name, true),
            NodeVerb::Undrain => self.engine.drain(name, false),
            NodeVerb::Forget => self.engine.forget(name),
        };
        Ok(message(200, done?))
    }
}

/// A node's name in a path: what cannot be one is not found.
pub(super) fn node_name(text: &str) -> Result<NodeName, ActFault> {
    text.parse().map_err(|_| ActFault::new(404, format!("node {:?} is not registered", shorten(text))))
}
