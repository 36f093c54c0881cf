//! How long to wait before the next try: longer each time, and never in step with others.

use std::time::Duration;

use crate::sys::random;

/// Doubling waits with jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is about `first`, later ones at most `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = jittered(self.next, u16::from_le_bytes(random::bytes()));
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// It worked: begin anew.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between half and all of `wait`: after a restart of the Host its nodes do not all come at once.
fn jittered(wait: Duration, random: u16) -> Duration {
    wait / 2 + wait / 2 * u32::from(random) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for longest in [100, 200, 400, 400] {
            let wait = backoff.wait();
            assert!(wait >= ms(longest / 2) && wait <= ms(longest), "{wait:?} of {longest}");
        }
        backoff.reset();
        assert!(backoff.wait() <= ms(100));
    }

    #[test]
    fn jitter_stays_within_half_and_all() {
        assert_eq!(jittered(Duration::from_secs(10), 0), Duration::from_secs(5));
        assert_eq!(jittered(Duration::from_secs(10), u16::MAX), Duration::from_secs(10));
    }
}
