//! The only door to the clocks.

use std::time::Instant;

/// Milliseconds since 1970, UTC. For display and ids; never for time-outs.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The monotonic clock, for time-outs. It goes on while the machine sleeps or not, but never back.
pub fn now() -> Instant {
    Instant::now()
}

/// `2026-11-23T00:31:27.123+00:00`
pub fn rfc3339(_unix_ms: u64) -> String {
    unimplemented!("sys")
}

/// The inverse of [`rfc3339`]; takes any offset, and `Z`; None if it is not of that form.
pub fn parse_rfc3339(_text: &str) -> Option<u64> {
    unimplemented!("sys")
}
