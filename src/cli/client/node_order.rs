//! `drain`, `undrain` and `forget`: one call each.

use std::path::Path;

use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::output;
use crate::domain::ids::NodeName;

pub(super) fn run(hostname: &NodeName, order: &str, config: Option<&Path>) -> Result<(), Fault> {
    output::line(&Host::of(config)?.post(&format!("/node/{hostname}/{order}"), "hakuriver client nodes")?);
    Ok(())
}
