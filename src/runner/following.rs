//! How far this node knows the Host's list: as a whole, or as far as the parts of a long one have come.

use std::collections::BTreeMap;

use super::link::Session;
use super::order::{self, News, Wanted};
use crate::api::node::DesiredAnswer;
use crate::domain::ids::TaskId;
use crate::warning;

/// The version of the list that is here.
#[derive(Default)]
pub(crate) struct Following {
    version: String,
    /// So far it is here; None: all of it.
    through: Option<TaskId>,
    /// What is here of a list of which not all is.
    part: BTreeMap<TaskId, Wanted>,
    /// The registration in which that was told.
    number: u64,
}

impl Following {
    /// What to ask with: the version that is here, and how far. Empty: the whole list is wanted.
    pub(crate) fn known(&mut self, session: &Session) -> (&str, Option<TaskId>) {
        if session.number != self.number {
            self.number = session.number;
            self.forget();
        }
        (&self.version, self.through)
    }

    /// An answer, if there is anything new in it and all has come.
    pub(crate) fn take(&mut self, answer: DesiredAnswer) -> Option<News> {
        let is_whole = answer.base.is_none();
        let was_part = self.through.is_some();
        if answer.version == self.version && !is_whole && !was_part {
            return None;
        }
        let goes_on = answer.through.is_some();
        if answer.base.as_ref().is_some_and(|base| *base != self.version || goes_on && !was_part) {
            // No difference to what is here: the whole list is asked for.
            self.forget();
            return None;
        }
        self.version.clone_from(&answer.version);
        let (news, odd) = order::read(answer);
        odd.iter().for_each(|line| warning!("{line}"));
        self.through = news.through;
        if is_whole {
            self.part.clear();
        }
        if !goes_on && (is_whole || !was_part) {
            return Some(news);
        }
        for id in &news.removed {
            self.part.remove(id);
        }
        self.part.extend(news.wanted);
        if let Some(through) = self.through {
            // What was here behind it may be another one by now.
            self.part.retain(|id, _| *id <= through);
            return None;
        }
        let wanted = std::mem::take(&mut self.part).into_iter().collect();
        Some(News { whole: true, wanted, removed: Vec::new(), through: None })
    }

    fn forget(&mut self) {
        self.version.clear();
        self.through = None;
        self.part.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node::{DesiredTask, OrderSpec};

    fn answer(version: &str, base: Option<&str>, tasks: &[(u64, &str)], through: Option<u64>) -> DesiredAnswer {
        let line = |(id, want): &(u64, &str)| DesiredTask {
            task_id: id.to_string(),
            attempt: 1,
            want: (*want).to_owned(),
            spec: OrderSpec { kind: "command".to_owned(), argv: vec!["true".to_owned()], ..OrderSpec::default() },
            ..DesiredTask::default()
        };
        DesiredAnswer {
            version: version.to_owned(),
            base: base.map(ToOwned::to_owned),
            tasks: tasks.iter().map(line).collect(),
            through: through.map(|id| id.to_string()),
            ..DesiredAnswer::default()
        }
    }

    fn told(news: Option<News>) -> Option<(bool, Vec<(u64, &'static str)>)> {
        let news = news?;
        Some((news.whole, news.wanted.into_iter().map(|(id, wanted)| (id.get(), wanted.want.word())).collect()))
    }

    #[test]
    fn a_list_in_parts_is_told_when_all_of_it_is_here() {
        let mut list = Following::default();
        let session = Session { id: "s".to_owned(), number: 1 };
        assert_eq!(list.known(&session), ("", None));
        assert_eq!(told(list.take(answer("1", None, &[(1, "run"), (2, "run"), (3, "run")], Some(3)))), None);
        assert_eq!(list.known(&session), ("1", Some(TaskId::from_u64(3))));
        // Task 1 has gone meanwhile, 2 is to end, and what was told of 3 is told again later.
        let next = DesiredAnswer { removed: vec!["1".to_owned()], ..answer("2", Some("1"), &[(2, "stop")], Some(2)) };
        assert_eq!(told(list.take(next)), None);
        assert_eq!(list.known(&session), ("2", Some(TaskId::from_u64(2))));
        let last = answer("2", Some("2"), &[(4, "run")], None);
        assert_eq!(told(list.take(last)), Some((true, vec![(2, "stop"), (4, "run")])), "3 is not in the list any more");
        assert_eq!(list.known(&session), ("2", None));
        assert_eq!(told(list.take(answer("3", Some("2"), &[(5, "run")], None))), Some((false, vec![(5, "run")])));
        assert_eq!(told(list.take(answer("3", Some("3"), &[], None))), None, "nothing new");
    }

    #[test]
    fn what_does_not_go_on_from_what_is_here_is_asked_for_again() {
        let mut list = Following::default();
        let session = Session { id: "s".to_owned(), number: 1 };
        for wrong in [answer("9", Some("8"), &[(9, "run")], None), answer("9", Some("1"), &[(9, "run")], Some(9))] {
            list.known(&session);
            assert!(list.take(answer("1", None, &[(1, "run")], None)).is_some());
            assert_eq!(told(list.take(wrong)), None);
            assert_eq!(list.known(&session), ("", None));
        }
        // A Host that was started anew begins from the start, also in the middle.
        assert_eq!(told(list.take(answer("1", None, &[(1, "run")], Some(1)))), None);
        assert_eq!(told(list.take(answer("7", None, &[(8, "run")], None))), Some((true, vec![(8, "run")])));
        // And so does another registration.
        assert_eq!(told(list.take(answer("8", None, &[(1, "run")], Some(1)))), None);
        assert_eq!(list.known(&Session { number: 2, ..session }), ("", None));
        assert_eq!(told(list.take(answer("8", None, &[(2, "run")], None))), Some((true, vec![(2, "run")])));
    }
}
