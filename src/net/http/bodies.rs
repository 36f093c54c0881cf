//! What all bodies that are being read or worked on take together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller ones are not counted: a thousand of them are little.
pub(super) const SMALL: usize = 64 << 10;

/// Bytes of all large bodies.
#[derive(Debug, Default)]
pub(super) struct Bodies(AtomicUsize);

/// The part of one of them; given back when dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    bodies: &'a Bodies,
    bytes: usize,
}

impl Bodies {
    pub(super) fn share(&self) -> Share<'_> {
        Share { bodies: self, bytes: 0 }
    }
}

impl Share<'_> {
    /// So much is about to come; false if all of them would have more than `most` then. Nobody waits for room: those who hold a part
    /// and wait for more would hold up each other.
    pub(super) fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let grown = self.bodies.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            all.checked_add(bytes).filter(|all| *all <= most)
        });
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }

    /// So much has not come after all.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.bodies.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.bodies.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_gives_back_another_can_have() {
        let bodies = Bodies::default();
        let (mut first, mut second) = (bodies.share(), bodies.share());
        assert!(first.grow(60, 100) && !second.grow(50, 100) && second.grow(40, 100) && !first.grow(1, 100));
        assert!(!second.grow(usize::MAX, 100));
        first.shrink(10);
        assert!(second.grow(10, 100));
        drop(first);
        assert!(second.grow(50, 100));
        drop(second);
        assert_eq!(bodies.0.into_inner(), 0);
    }
}
