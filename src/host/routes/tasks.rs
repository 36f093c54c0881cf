//! Single tasks for users.

use crate::domain::ids::{TaskId, TaskName};
use crate::net::http::Reply;
use crate::store::Task;

use super::super::engine::{ActFault, Control};
use super::super::render;
use super::{Api, answer, message, shorten, unreadable};

impl Api {
    /// `GET /status/{id or name}`
    pub(super) fn status(&self, text: &str) -> Result<Reply, ActFault> {
        let (task, waiting) = self.find(text)?;
        let mut record = render::task_record(&task, waiting.as_deref());
        self.tell_output(&task, &mut record);
        Ok(answer(200, &record))
    }

    /// `POST /kill/{id or name}`
    pub(super) fn kill(&self, text: &str) -> Result<Reply, ActFault> {
        let id = self.id_of(text)?;
        Ok(message(202, self.engine.kill(id)?))
    }

    /// `POST /command/{id or name}/{pause or resume}`
    pub(super) fn control(&self, text: &str, action: &str) -> Result<Reply, ActFault> {
        let control = match action {
            "pause" => Control::Pause,
            "resume" => Control::Resume,
            other => {
                let why = format!("action {:?} is not known: expected pause or resume", shorten(other));
                return Err(ActFault::new(400, why));
            }
        };
        let id = self.id_of(text)?;
        Ok(message(200, self.engine.control(id, control)?))
    }

    /// The task with that id, or the one that holds that name, or else the newest that had it.
    pub(super) fn find(&self, text: &str) -> Result<(Task, Option<std::sync::Arc<str>>), ActFault> {
        let not_found = || ActFault::new(404, format!("task '{}' not found", shorten(text)));
        let live = |id| self.engine.view.task(id);
        // The live one first: what is neither live nor in the database was never there, as a task is stored before it
        // ceases to be live.
        if let Ok(id) = text.parse::<TaskId>() {
            if let Some(live) = live(id) {
                return Ok((live.task.clone(), self.engine.view.reason(&live)));
            }
            let stored = self.readers.task(id).map_err(unreadable)?;
            return stored.map(|task| (task, None)).ok_or_else(not_found);
        }
        let name: TaskName = text.parse().map_err(|_| not_found())?;
        if let Some(live) = self.engine.view.holder(&name) {
            return Ok((live.task.clone(), self.engine.view.reason(&live)));
        }
        let stored = self.readers.task_named(&name).map_err(unreadable)?;
        stored.map(|task| (task, None)).ok_or_else(not_found)
    }

    fn id_of(&self, text: &str) -> Result<TaskId, ActFault> {
        match text.parse::<TaskId>() {
            Ok(id) => Ok(id),
            Err(_) => self.find(text).map(|(task, _)| task.id),
        }
    }
}
