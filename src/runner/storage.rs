//! The directory that the cluster shares, as a node sees it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::looks::Looks;
use crate::sys::{fault, file};

/// `<shared_dir>/shared_data`, if `shared_dir` is this cluster's: only where `.hakuriver-cluster` holds its id. So a
/// mount point whose file system is missing is never taken for it, nor written to.
pub fn shared_data(looks: &Looks, shared_dir: &Path, cluster: &str) -> Option<PathBuf> {
    let (shared_dir, cluster) = (shared_dir.to_owned(), cluster.to_owned());
    let look = move || {
        if !is_clusters(&shared_dir, &cluster) {
            return None;
        }
        let data = shared_dir.join("shared_data");
        let _step = fault::step("folder", || "shared_data".to_owned());
        match fs::create_dir(&data) {
            Ok(()) => Some(data),
            Err(_) if data.is_dir() => Some(data),
            Err(_) => None,
        }
    };
    looks.at(look).flatten()
}

/// Whether a directory is the one that `cluster` shares. May take long: for [`Looks::at`].
pub fn is_clusters(shared_dir: &Path, cluster: &str) -> bool {
    let id = file::read_foreign(&shared_dir.join(".hakuriver-cluster"), 4096);
    id.is_ok_and(|id| String::from_utf8_lossy(&id).trim() == cluster)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn only_the_clusters_own_directory_is_shared_and_nothing_else_is_touched() {
        let scratch = Scratch::new();
        let looks = Looks::default();
        assert_eq!(shared_data(&looks, scratch.path(), "c1"), None);
        assert_eq!(shared_data(&looks, &scratch.path().join("missing"), "c1"), None);
        assert!(fs::read_dir(scratch.path()).expect("it is there").next().is_none(), "nothing was made");
        fs::write(scratch.path().join(".hakuriver-cluster"), "c1\n").expect("it can be written");
        assert_eq!(shared_data(&looks, scratch.path(), "c2"), None);
        let data = scratch.path().join("shared_data");
        assert_eq!(shared_data(&looks, scratch.path(), "c1"), Some(data.clone()));
        assert!(data.is_dir());
    }
}
