//! Any bytes as the journal of tasks.

use super::{Line, encode, read};

/// What is found in it is found again in what is written of that, and where it is cut, nothing is made up.
pub(crate) fn journal(bytes: &[u8]) {
    let Ok(found) = read(bytes) else { return };
    let header = encode(&Line::Header { format: super::FORMAT, boot_id: found.boot_id.clone() });
    let lines = found.tasks.values().map(|state| encode(&Line::Task(state.clone())));
    let anew: Vec<u8> = std::iter::once(header).chain(lines).flatten().collect();
    let again = read(&anew).expect("it was written just now");
    assert_eq!((&again.tasks, &again.boot_id, again.warnings.len()), (&found.tasks, &found.boot_id, 0));
    if let Ok(cut) = read(&bytes[..bytes.len() / 2]) {
        assert!(cut.tasks.len() <= bytes.len() / 18);
    }
    // A byte that changed on the disk costs its line, and is told of, unless it is the last.
    if !anew.is_empty() {
        let at = bytes.len() % anew.len();
        let mut damaged = anew.clone();
        damaged[at] ^= 1;
        if let Ok(rest) = read(&damaged) {
            assert!(rest.tasks.len() <= found.tasks.len() + 1);
        }
    }
}
