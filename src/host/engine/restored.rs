//! The first start with a database that was put back from a backup.

use crate::domain::ids::TaskId;
use crate::domain::state::Event;
use crate::store::StoreFault;
use crate::sys::clock;
use crate::{info, warning};

use super::Now;
use super::apply::Facts;
use super::core::{Core, Turn};

impl Core {
    /// What the backup says of tasks was true when it was made. Since then they may have run, and ended, and been forgotten by their
    /// nodes: so those that were placed are `lost` until their nodes tell, and those that waited are not started, because they may
    /// have been. In one transaction with the mark's end, which the next start does not find any more.
    pub(super) fn take_in_backup(&mut self, now: Now) -> Result<(), StoreFault> {
        let Some(made_ms) = self.store.backup_mark()? else { return Ok(()) };
        let made = clock::rfc3339(made_ms);
        let live: Vec<TaskId> = self.tasks.keys().copied().collect();
        let waited = live.iter().filter(|id| self.queue.contains(**id)).count();
        for id in &live {
            let reason = if self.queue.contains(*id) {
                format!(
                    "the database was restored from a backup of {made}, when this task still waited: it may have been started since; \
                     submit it again if it is to run (again)"
                )
            } else {
                format!(
                    "the database was restored from a backup of {made}: what became of it since is known when its node tells"
                )
            };
            // Refused by no state of a live task.
            let _ = self.apply(*id, &Event::Restored { reason }, Facts::default(), "database restored", now)?;
        }
        self.restored_through = Some(TaskId::from_u64(self.store.newest_id()?));
        self.restored_through.map_or(Ok(()), |highest| self.store.note_restored_through(highest))?;
        self.store.forget_backup_mark()?;
        // Numbers that were given since must not be given to other events: who followed those is told that there is a gap.
        self.store.skip_event_numbers(now.unix_ms.saturating_mul(1_000))?;
        self.derive_held();
        self.store.commit()?;
        let placed = live.len() - waited;
        info!("the database was restored from a backup of {made}; 'lost' until their nodes tell: {placed}");
        if waited > 0 {
            warning!("what waited when the backup was made is 'failed', with unknown results: {waited}");
        }
        // What this turn has changed is shown with all the rest.
        let happened = std::mem::take(&mut self.turn.happened);
        self.turn = Turn { schedule: true, happened, ..Turn::default() };
        Ok(())
    }
}
