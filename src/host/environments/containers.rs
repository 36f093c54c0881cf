//! The containers of environments: listed, made, started, stopped, removed.

use super::words::{self, Found, Image, Listed, Pull, State};
use super::{Environments, binary, env_name};
use crate::domain::docker_words::Complaint;
use crate::domain::ids::EnvName;
use crate::host::engine::ActFault;

/// What became of a wish for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host) enum Created {
    Now,
    /// It was there, made of the same image; nothing was done to it.
    Before,
}

impl Environments {
    /// Id, name, image and status of each.
    ///
    /// # Errors
    /// 503: no Docker.
    pub(in crate::host) fn containers(&self) -> Result<Vec<[String; 4]>, ActFault> {
        let all = self.docker.list(&self.cluster)?;
        Ok(all.into_iter().map(|Listed { id, name, image, status }| [id, name, image, status]).collect())
    }

    /// Makes and starts a container of an image that is here, or can be pulled. `progress` hears of the pull.
    ///
    /// # Errors
    /// 400: the name or the image is none; 404: there is no such image, with how to bring it by hand; 409: the name is taken; 503:
    /// no Docker.
    pub(in crate::host) fn create(
        &self,
        image_name: &str,
        name: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Created, ActFault> {
        let name = env_name(name)?;
        words::tag(&name).map_err(|why| ActFault::new(400, why))?;
        check_image_name(image_name)?;
        let _busy = self.take(&name)?;
        if let Some(found) = self.docker.look(name.as_str())? {
            return self.is_same(&found, &name, image_name);
        }
        let image = self.image(image_name, progress)?;
        let binary = binary::prepare(&self.home)
            .map_err(|fault| ActFault::new(500, format!("container '{name}' was not made: {fault}")))?;
        progress(&format!("starting container {name}"));
        let argv = words::run(&name, &self.cluster, &binary.to_string_lossy(), image_name, &image);
        if let Err(fault) = self.docker.run(argv) {
            // Made, but not started: nothing of it may stay.
            if let Ok(Some(found)) = self.docker.look(name.as_str())
                && found.is_environment(&self.cluster, name.as_str())
            {
                let _stays = self.docker.remove(&found.id);
            }
            return Err(fault.into());
        }
        Ok(Created::Now)
    }

    fn is_same(&self, found: &Found, name: &EnvName, image_name: &str) -> Result<Created, ActFault> {
        if !found.is_environment(&self.cluster, name.as_str()) {
            let whose = if found.is_of_other_cluster(&self.cluster, name.as_str()) {
                "it belongs to another cluster of this machine"
            } else {
                "HakuRiver did not make it"
            };
            let text = format!(
                "a container '{name}' exists already, and {whose}: choose another name, or 'docker rename' that one \
                 (to make an environment of it as it is: 'hakuriver docker create-tar {name}')"
            );
            return Err(ActFault::new(409, text));
        }
        if found.image_name == image_name {
            if found.state != State::New {
                return Ok(Created::Before);
            }
            // Docker went away between making and starting it.
            self.docker.start(&found.id)?;
            return Ok(Created::Now);
        }
        let text = format!(
            "container '{name}' exists already, made of {}: choose another name, or remove it with \
             'hakuriver docker delete-container {name}'",
            found.image_name
        );
        Err(ActFault::new(409, text))
    }

    /// The image, from this machine if it is here, else from a registry.
    fn image(&self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Image, ActFault> {
        if let Some(image) = self.docker.image(name)? {
            return Ok(image);
        }
        progress(&format!("pulling {name}"));
        let mut pull = Pull::default();
        let pulled = self.docker.pull(name, &self.stop, &mut |line| {
            if let Some(news) = pull.line(line) {
                progress(&format!("pulling {name}: {news}"));
            }
        });
        if let Err(fault) = pulled {
            if fault.kind == Complaint::Down {
                return Err(fault.into());
            }
            let text = format!(
                "image '{name}' is not on this machine and cannot be pulled: {}\nwithout a registry bring it by hand: \
                 'docker save {name} -o image.tar' where it is, 'docker load -i image.tar' here",
                fault.text
            );
            return Err(ActFault::new(404, text));
        }
        let image = self.docker.image(name)?;
        image.ok_or_else(|| ActFault::new(500, format!("image '{name}' was pulled, and is not there")))
    }

    /// Starts it; false: it ran already.
    ///
    /// # Errors
    /// 404: there is none of that name that is ours; 409: it is paused, or something is being done to it; 503: no Docker.
    pub(in crate::host) fn start(&self, name: &str) -> Result<bool, ActFault> {
        self.with_ours(name, |found| {
            if found.state == State::Paused {
                let text = format!("container '{name}' is paused; 'docker unpause {name}' on the Host lets it go on");
                return Err(ActFault::new(409, text));
            }
            let rests = found.state != State::Running;
            if rests {
                // What it runs may be gone with an older version's state, or be of an older version.
                binary::prepare(&self.home)
                    .map_err(|fault| ActFault::new(500, format!("container '{name}' was not started: {fault}")))?;
                self.docker.start(&found.id)?;
            }
            Ok(rests)
        })
    }

    /// Stops it; false: it did not run.
    ///
    /// # Errors
    /// As [`Environments::start`].
    pub(in crate::host) fn stop(&self, name: &str) -> Result<bool, ActFault> {
        self.with_ours(name, |found| {
            let lives = matches!(found.state, State::Running | State::Paused);
            if lives {
                self.docker.stop(&found.id)?;
            }
            Ok(lives)
        })
    }

    /// Removes it, with all that was not packed. Tarballs stay.
    ///
    /// # Errors
    /// As [`Environments::start`].
    pub(in crate::host) fn delete(&self, name: &str) -> Result<(), ActFault> {
        self.with_ours(name, |found| Ok(self.docker.remove(&found.id)?))
    }

    /// The id of the container of an environment, if it runs: for a shell in it.
    ///
    /// # Errors
    /// 404: there is none of that name that is ours; 409: it does not run; 503: no Docker.
    pub(in crate::host) fn running(&self, name: &str) -> Result<String, ActFault> {
        let found = self.ours(name)?;
        let why = match found.state {
            State::Running => return Ok(found.id),
            State::Paused => format!("container '{name}' is paused; 'docker unpause {name}' on the Host lets it go on"),
            State::New | State::Ended => {
                format!("container '{name}' does not run; start it with 'hakuriver docker start-container {name}'")
            }
        };
        Err(ActFault::new(409, why))
    }

    fn with_ours<T>(&self, name: &str, act: impl FnOnce(&Found) -> Result<T, ActFault>) -> Result<T, ActFault> {
        // What is no name of an environment is no environment's container.
        let env: EnvName = name.parse().map_err(|_| no_container(name))?;
        let _busy = self.take(&env)?;
        act(&self.ours(name)?)
    }

    fn ours(&self, name: &str) -> Result<Found, ActFault> {
        let env: EnvName = name.parse().map_err(|_| no_container(name))?;
        let found = self.docker.look(env.as_str())?.ok_or_else(|| no_container(name))?;
        if found.is_environment(&self.cluster, name) {
            return Ok(found);
        }
        let text = format!("container '{name}' is none of this cluster's environments, and is left alone");
        Err(ActFault::new(404, text))
    }
}

fn no_container(name: &str) -> ActFault {
    let name: String = name.chars().take(80).collect();
    ActFault::new(
        404,
        format!("container '{name}' not found; 'hakuriver docker list-containers' shows those that there are"),
    )
}

/// What can be no image's name for Docker; above all nothing that it would take for an option.
fn check_image_name(name: &str) -> Result<(), ActFault> {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    let good = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= 512
        && name.bytes().all(is_sign);
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(ActFault::new(400, format!("image_name: {shown:?} is no image's name, such as 'debian:12'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_docker_would_take_for_an_option_is_an_image() {
        for good in ["debian", "debian:12", "ghcr.io/a/b:1.2", "a@sha256:00", "localhost:5000/x", "0b88242b215f"] {
            assert_eq!(check_image_name(good), Ok(()), "{good}");
        }
        for bad in ["", "--privileged", "-v", "a b", "a\nb", "a;b", "ä", &"a".repeat(513)] {
            let fault = check_image_name(bad).expect_err(bad);
            assert!(fault.status == 400 && fault.detail.starts_with("image_name: "), "{fault:?}");
        }
    }
}
