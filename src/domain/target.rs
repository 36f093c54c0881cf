//! The target grammar: `HOST[:NUMA_ID][::GPU_ID[,GPU_ID…]]`.

use std::fmt;

use super::ids::{GpuId, NodeName, NumaId};
use super::spec::SpecFault;

/// A node, and optionally one of its NUMA nodes. (GPUs stand beside it: see [`parse`].)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: NodeName,
    pub numa: Option<NumaId>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.numa {
            Some(numa) => write!(f, "{}:{numa}", self.node),
            None => self.node.fmt(f),
        }
    }
}

/// Parses a whole target; the GPU ids are empty where none are named.
///
/// # Errors
/// One sentence with the place of the fault (its column, from 1) and the accepted form.
pub fn parse(_text: &str) -> Result<(Target, Vec<GpuId>), SpecFault> {
    unimplemented!("domain")
}
