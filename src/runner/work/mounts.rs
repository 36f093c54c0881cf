//! What of the node a container sees: which mounts it may have, and where they lead.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::start::{Contained, over, text};
use super::{Halt, Work};
use crate::domain::spec::Mount;
use crate::runner::backoff::Backoff;
use crate::runner::order::ContainerOrder;
use crate::runner::storage;

/// Between two looks at storage that does not answer.
const UNANSWERED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Work {
    /// What this node itself forbids, whatever the Host says.
    pub(super) fn allowed(&self, order: &ContainerOrder) -> Result<(), Halt> {
        let limits = &self.node.limits;
        if order.privileged && !limits.allow_privileged {
            return Err(over(
                "this node allows no privileged containers (docker.allow_privileged = false in its config)",
            ));
        }
        let allowed =
            |mount: &&Mount| limits.allowed_mounts.iter().any(|root| Path::new(&mount.host).starts_with(root));
        match order.mounts.iter().find(|mount| !allowed(mount)) {
            Some(mount) => {
                Err(over(format!("this node does not allow {} to be mounted (docker.allowed_mounts)", mount.host)))
            }
            None => Ok(()),
        }
    }

    /// The mounts, and the working directory.
    pub(super) fn mounts(&mut self, task: &Contained<'_>) -> Result<(Vec<Mount>, Option<String>), Halt> {
        let own = self.real_mounts(task.container)?;
        let limits = &self.node.limits;
        let taken = |path: &str| task.container.mounts.iter().any(|mount| mount.container == path);
        let mut mounts = Vec::new();
        let mut add = |host: PathBuf, container: &str| -> Result<(), Halt> {
            // A mount of the user's own at this place wins.
            if !taken(container) {
                mounts.push(Mount { host: text(&host)?, container: container.to_owned(), read_only: false });
            }
            Ok(())
        };
        let shared = storage::shared_data(&self.node.looks, &limits.shared_dir, &self.node.docker.owner().cluster);
        let is_shared = shared.is_some();
        if let Some(shared) = shared {
            add(shared, "/shared")?;
        }
        add(limits.local_temp_dir.clone(), "/local_temp")?;
        mounts.extend(own);
        let shared = (is_shared || taken("/shared")).then(|| "/shared".to_owned());
        Ok((mounts, task.workdir.map(ToOwned::to_owned).or(shared)))
    }

    /// The task's own mounts, with all links followed: one in a folder that it may mount could lead anywhere else. Docker gets
    /// what was looked at, and not the link.
    fn real_mounts(&mut self, order: &ContainerOrder) -> Result<Vec<Mount>, Halt> {
        let roots = &self.node.limits.allowed_mounts;
        // Nothing leads out of that, and a file server that hangs holds up nobody here.
        if order.mounts.is_empty() || roots.iter().any(|root| root == Path::new("/")) {
            return Ok(order.mounts.clone());
        }
        let roots = roots.clone();
        let paths: Vec<PathBuf> = order.mounts.iter().map(|mount| PathBuf::from(&mount.host)).collect();
        let mut backoff = Backoff::new(UNANSWERED.0, UNANSWERED.1);
        let real = loop {
            let (paths, roots) = (paths.clone(), roots.clone());
            match self.node.mount_looks.at(move || storage::within(&paths, &roots)) {
                Some(real) => break real.map_err(over)?,
                None => {
                    self.progress("waiting for the storage of its mounts, which does not answer on this node");
                    if self.cancel.wait(backoff.wait()) {
                        return Err(Halt::Cancelled);
                    }
                }
            }
        };
        let real = order.mounts.iter().zip(real);
        real.map(|(mount, path)| Ok(Mount { host: text(&path)?, ..mount.clone() })).collect()
    }
}
