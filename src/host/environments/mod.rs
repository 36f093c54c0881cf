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
    /// Two lines: which ones there are, and the command that makes this one.
    pub(super) fn require(&self, name: &EnvName) -> Result<(), String> {
        let known = self.list()?;
        if known.contains(name.as_str()) {
            return Ok(());
        }
        let known: Vec<&str> = known.iter().map(String::as_str).take(20).collect();
        let known =
            if known.is_empty() { "there is none yet".to_owned() } else { format!("known: {}", known.join(", ")) };
        Err(format!(
            "environment '{name}' does not exist ({known}); make it of an image that has an SSH server, on the Host:\n\
             docker save IMAGE -o {}/{name}-$(date +%s).tar",
            self.folder.display()
        ))
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
        // What is advised works today, as it stands there.
        let advice = format!("docker save IMAGE -o {}/base-$(date +%s).tar", folder.display());
        let fault = environments.require(&base).expect_err("none");
        assert!(fault.contains("(there is none yet)") && fault.ends_with(&advice), "{fault}");
        std::fs::write(folder.join("base-17.tar"), "").expect("write");
        assert_eq!(environments.require(&base), Ok(()));
        assert!(environments.require(&other).expect_err("unknown").contains("known: base"));
        std::fs::remove_dir_all(&folder).expect("remove");
        assert!(environments.require(&base).expect_err("gone").contains("cannot read"));
    }
}
