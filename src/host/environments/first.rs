//! The default environment, made at the first start of a Host.

use std::sync::Arc;

use super::{Created, Environments, tarballs};
use crate::{info, warning};

impl Environments {
    /// Makes the default environment of `docker.initial_base_image` where no environment has a tarball. Failing is no fault of
    /// the Host: a warning says what to do.
    pub(super) fn make_first(self: &Arc<Self>) {
        let (name, image) = (&self.default, &self.initial_image);
        if image.is_empty() || tarballs::versions(self.folder()).is_ok_and(|all| !all.is_empty()) {
            return;
        }
        info!("there is no environment yet: making '{name}' of {image}");
        let mut told = String::new();
        let created = self.create(image, name, &mut |progress| {
            // A line for each layer would be too many in a log.
            if told.is_empty() {
                info!("{progress}");
                progress.clone_into(&mut told);
            }
        });
        match created {
            Ok(Created::Now) => self.pack_first(name),
            // It may be half set up: whether it is done, its user knows.
            Ok(Created::Before) => {
                warning!(
                    "no environment is packed yet; container '{name}' is there: 'hakuriver docker create-tar {name}'"
                );
            }
            Err(_) if self.stop.is_set() => {}
            Err(fault) => warning!(
                "there is no environment yet, and the default one cannot be made (docker.initial_base_image): {}\n\
                 make one with 'hakuriver docker create-container IMAGE {name}' and 'hakuriver docker create-tar {name}'",
                fault.detail
            ),
        }
    }
}
