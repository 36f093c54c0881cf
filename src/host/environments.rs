//! Which environments there are: the tarballs `<env>-<unix time>.tar` in the container directory.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::domain::ids::EnvName;

/// The container directory of the Host.
#[derive(Clone, Debug)]
pub(super) struct Environments {
    folder: PathBuf,
}

impl Environments {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Is there a tarball of it?
    ///
    /// # Errors
    /// One sentence: which ones there are, and what to do.
    pub(super) fn require(&self, name: &EnvName) -> Result<(), String> {
        let known = self.list()?;
        if known.contains(name.as_str()) {
            return Ok(());
        }
        let folder = self.folder.display();
        Err(if known.is_empty() {
            format!(
                "environment '{name}' does not exist: there is no environment yet; pack one with 'hakuriver docker create-tar', or put a tarball {name}-<unix time>.tar into {folder}"
            )
        } else {
            let known: Vec<&str> = known.iter().map(String::as_str).take(20).collect();
            format!(
                "environment '{name}' does not exist (known: {}); pack it with 'hakuriver docker create-tar', or put a tarball {name}-<unix time>.tar into {folder}",
                known.join(", ")
            )
        })
    }

    /// Read afresh each time: a look into a folder of a few names costs less than keeping a copy true.
    fn list(&self) -> Result<BTreeSet<String>, String> {
        let fault = |error| format!("cannot read the container directory {}: {error}", self.folder.display());
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.folder).map_err(fault)? {
            let file = entry.map_err(fault)?.file_name();
            if let Some(name) = file.to_str().and_then(environment_of) {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// The environment in a tarball's file name.
fn environment_of(file: &str) -> Option<&str> {
    let (name, time) = file.strip_suffix(".tar")?.rsplit_once('-')?;
    let is_time = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && name.parse::<EnvName>().is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tarballs_are_known_by_their_names() {
        for (file, name) in [
            ("base-1700000000.tar", Some("base")),
            ("my-env-2-17.tar", Some("my-env-2")),
            ("base-.tar", None),
            ("base-1x.tar", None),
            ("-17.tar", None),
            ("base-17.tar.part", None),
            (".base-17.tar", None),
            ("base.tar", None),
            ("NULL-17.tar", None),
        ] {
            assert_eq!(environment_of(file), name, "{file}");
        }
    }

    #[test]
    fn an_unknown_environment_is_refused_with_those_that_there_are() {
        let folder = std::env::temp_dir().join(format!("hakuriver-envs-{}", crate::sys::random::hex(8)));
        std::fs::create_dir(&folder).expect("folder");
        let environments = Environments::at(folder.clone());
        let (base, other): (EnvName, EnvName) = ("base".parse().expect("name"), "other".parse().expect("name"));
        assert!(environments.require(&base).expect_err("none").contains("no environment yet"));
        std::fs::write(folder.join("base-17.tar"), "").expect("write");
        assert_eq!(environments.require(&base), Ok(()));
        assert!(environments.require(&other).expect_err("unknown").contains("known: base"));
        std::fs::remove_dir_all(&folder).expect("remove");
        assert!(environments.require(&base).expect_err("gone").contains("cannot read"));
    }
}
