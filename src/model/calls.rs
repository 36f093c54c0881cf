//! What the simulated Docker does when it is called, and what it answers.

use std::time::Duration;

use super::container::{State, listed};
use super::docker::{Around, Daemon};
use crate::runner::executor::docker_parse::DockerAction;

impl Daemon {
    /// Any other call than `run`: what it prints, or what it complains of.
    pub(super) fn call(&mut self, argv: &[String], around: &mut Around<'_>) -> Result<String, String> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let last = words.last().copied().unwrap_or("");
        let no_such = |id: &str| format!("Error response from daemon: No such container: {id}");
        match words.as_slice() {
            ["ps", ..] => Ok(self.containers.iter().map(listed).collect()),
            ["inspect", "--type", "container", "--format", _, ids @ ..] => {
                let found = ids.iter().filter_map(|id| self.at(id)).map(|at| self.containers[at].inspected());
                Ok(found.collect())
            }
            ["image", "inspect", "--format", "{{.Id}}", ..] => Ok(format!("sha256:{last}\n")),
            ["image", "inspect", ..] => Ok(r#"{"entrypoint":null,"user":""}"#.to_owned()),
            ["logs", .., id] => Ok(self.containers[self.at(id).ok_or_else(|| no_such(id))?].said.clone()),
            ["diff", id] => {
                let at = self.at(id).ok_or_else(|| no_such(id))?;
                let began = self.containers[at].run.is_some();
                Ok(if began { "A /.hakuriver\n".to_owned() } else { String::new() })
            }
            ["rm", "--force", "--volumes", ids @ ..] => {
                for id in ids {
                    let at = self.at(id).ok_or_else(|| no_such(id))?;
                    if self.containers[at].lives() {
                        self.die(at, 137, false, false, around);
                    }
                    self.containers[at].restart_at = None;
                    if !around.is_calm && around.random.percent(20) {
                        self.containers[at].state = State::Removing;
                        self.removals.push((around.now + around.random.ms(1, 500), (*id).to_owned()));
                    } else {
                        self.remove(at, around);
                    }
                }
                Ok(String::new())
            }
            ["rm", "--volumes", id] => {
                let at = self.at(id).ok_or_else(|| no_such(id))?;
                if self.containers[at].lives() {
                    return Err("Error response from daemon: You cannot remove a running container".to_owned());
                }
                self.remove(at, around);
                Ok(String::new())
            }
            [verb, .., id] => {
                let at = self.at(id).ok_or_else(|| no_such(id))?;
                self.act(verb, at, &words, around).map(|()| String::new())
            }
            _ => Err(format!("what is docker {words:?}?")),
        }
    }

    fn act(&mut self, verb: &str, at: usize, words: &[&str], around: &mut Around<'_>) -> Result<(), String> {
        let container = &mut self.containers[at];
        let wrong = |what: &str| Err(format!("Error response from daemon: Container {what}"));
        match (verb, container.state) {
            ("pause", State::Running) => {
                container.state = State::Paused;
                container.run.iter().for_each(|run| around.truth.of(*run).frozen = true);
                self.tell(at, DockerAction::Pause, around.now);
            }
            ("pause", State::Paused) => return wrong("is already paused"),
            ("pause", _) => return wrong("is not running"),
            ("unpause", State::Paused) => {
                container.state = State::Running;
                container.run.iter().for_each(|run| around.truth.of(*run).frozen = false);
                if let Some((then, ..)) = &mut container.dies {
                    *then = (*then).max(around.now + Duration::from_millis(20));
                }
                self.tell(at, DockerAction::Unpause, around.now);
            }
            ("unpause", _) => return wrong("is not paused"),
            ("update", _) => container.restarts = words.contains(&"unless-stopped"),
            ("stop", State::Running | State::Paused) => {
                container.stopped = true;
                let (grace, code) = if container.state == State::Running && around.random.percent(80) {
                    (around.random.ms(1, 300), 143)
                } else {
                    (Duration::from_secs(10), 137)
                };
                container.kill_at = Some((around.now + grace, code));
            }
            ("stop", State::Restarting) => {
                container.stopped = true;
                container.restart_at = None;
                container.state = State::Exited;
            }
            ("start", State::Created | State::Exited) => self.start(at, around),
            ("stop" | "start", _) => {}
            _ => return Err(format!("what is docker {words:?}?")),
        }
        Ok(())
    }
}
