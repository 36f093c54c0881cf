//! The directory that the cluster shares, as a node sees it.

use std::fs;
use std::io::{self, ErrorKind};
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

/// Where each of `paths` is when all links in it are followed. May take long: for [`Looks::at`].
///
/// # Errors
/// One sentence: one of them is not there, or is not within any of `roots`, whose own links are followed too.
pub fn within(paths: &[PathBuf], roots: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let unseen = |path: &Path, fault: &io::Error| {
        let hint = match fault.kind() {
            ErrorKind::PermissionDenied => " (the Runner's user has to be able to look into its folders)",
            _ => "",
        };
        format!("cannot mount {}: {fault}{hint}", path.display())
    };
    let mut real_roots = Vec::new();
    for root in roots {
        match root.canonicalize() {
            Ok(real) => real_roots.push(real),
            Err(fault)
                if fault.kind() == ErrorKind::PermissionDenied && paths.iter().any(|path| path.starts_with(root)) =>
            {
                return Err(unseen(root, &fault));
            }
            // One that is not there has nothing in it.
            Err(_) => {}
        }
    }
    let real = |path: &PathBuf| {
        let real = path.canonicalize().map_err(|fault| unseen(path, &fault))?;
        if real_roots.iter().any(|root| real.starts_with(root)) {
            return Ok(real);
        }
        Err(format!(
            "this node does not allow {} to be mounted: it leads to {} (docker.allowed_mounts)",
            path.display(),
            real.display()
        ))
    };
    paths.iter().map(real).collect()
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

    #[test]
    fn a_link_leads_out_of_no_root() {
        use std::os::unix::fs::symlink;
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().canonicalize().expect("it is there").join(name);
        for folder in ["a", "a/in", "ab", "b"] {
            fs::create_dir(at(folder)).expect("it can be made");
        }
        for (link, target) in
            [("a/out", "../b"), ("a/to-in", "in"), ("a/twice", "to-in/../out"), ("c", "b"), ("a/ring", "ring")]
        {
            symlink(target, at(link)).expect("it can be made");
        }
        let leads = |path: &str, root: &str| within(&[at(path)], &[at("missing"), at(root)]);
        assert_eq!(leads("a/in", "a"), Ok(vec![at("a/in")]));
        assert_eq!(leads("a", "a"), Ok(vec![at("a")]));
        assert_eq!(leads("a/to-in", "a"), Ok(vec![at("a/in")]));
        assert_eq!(leads("c", "c"), Ok(vec![at("b")]), "who runs the node may have a link for a root");
        for path in ["a/out", "a/twice", "ab", "c"] {
            let fault = leads(path, "a").expect_err("it is outside");
            assert!(
                fault.contains(at(path).to_str().expect("a text")) && fault.contains("docker.allowed_mounts"),
                "{fault}"
            );
        }
        for path in ["a/gone", "a/ring"] {
            assert!(leads(path, "a").expect_err("there is none").contains("cannot mount"), "{path}");
        }
    }
}
