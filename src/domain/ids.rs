//! Names and numbers that identify things. Each is parsed once, at the edge, and trusted inside.

use std::fmt;
use std::str::FromStr;

/// A task's id: a snowflake, `(unix_ms << 22) | (instance << 12) | sequence`.
///
/// It exceeds 2^53, so JSON carries it as a decimal string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    /// Wraps a number that is known to be an id (from the database, from an [`IdSequence`]).
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({})", self.0)
    }
}

impl FromStr for TaskId {
    type Err = NameFault;

    /// Decimal digits alone: no sign, no blank, below 2^63 (so that it fits SQLite's integer).
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let fault = || NameFault::new("task id", text, "expected a decimal number");
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fault());
        }
        match text.parse::<u64>() {
            Ok(id) if id <= i64::MAX as u64 => Ok(Self(id)),
            _ => Err(fault()),
        }
    }
}

/// Issues strictly increasing task ids, also when the clock steps back.
#[derive(Debug)]
pub struct IdSequence {
    instance: u64,
    last_ms: u64,
    sequence: u64,
}

impl IdSequence {
    const SEQUENCE_MASK: u64 = 0xfff;
    /// Ids end here, in the year 2039: they have to fit into SQLite's integer, which is signed. A clock that shows more, or goes
    /// there, is wrong.
    const LAST_MS: u64 = (1 << 41) - 1;

    /// `newest` is the highest id that was ever issued (0 if none): every later id exceeds it.
    pub fn after(newest: u64, instance: u16) -> Self {
        Self {
            instance: u64::from(instance) & 0x3ff,
            last_ms: newest >> 22,
            // The rest of that millisecond counts as used up, whichever instance issued in it.
            sequence: Self::SEQUENCE_MASK,
        }
    }

    /// The next id, for a clock that reads `unix_ms` milliseconds since 1970.
    pub fn next(&mut self, unix_ms: u64) -> TaskId {
        if unix_ms > self.last_ms && unix_ms < Self::LAST_MS {
            self.last_ms = unix_ms;
            self.sequence = 0;
        } else if self.sequence < Self::SEQUENCE_MASK {
            self.sequence += 1;
        } else {
            // 4,096 in one millisecond, or a clock that stepped back: run ahead of the clock.
            self.last_ms += 1;
            self.sequence = 0;
        }
        TaskId((self.last_ms << 22) | (self.instance << 12) | self.sequence)
    }

    /// The millisecond that none of the next `count` ids comes behind, for a clock that reads `unix_ms`.
    pub fn last_ms_of(&self, count: usize, unix_ms: u64) -> u64 {
        let start = if unix_ms < Self::LAST_MS { self.last_ms.max(unix_ms) } else { self.last_ms };
        start + count as u64 / (Self::SEQUENCE_MASK + 1) + 1
    }

    /// Leaves out all ids up to one that was given before, by whomever. None is left out for one that lies more than a day
    /// ahead of the clock: no Host gave that, and the ids would be used up.
    pub fn skip(&mut self, given: TaskId, unix_ms: u64) {
        const AHEAD_MS: u64 = 86_400_000;
        let ms = given.0 >> 22;
        if ms >= self.last_ms && ms <= unix_ms.saturating_add(AHEAD_MS) && ms < Self::LAST_MS {
            self.last_ms = ms;
            self.sequence = Self::SEQUENCE_MASK;
        }
    }
}

/// Which try of a task this is: 1 for the first. It grows only when a complete inventory of the node shows
/// that the earlier attempt was never started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first attempt.
    pub const FIRST: Self = Self(1);

    /// The attempt after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node's number, as sysfs has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaId(pub u32);

impl fmt::Display for NumaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A GPU's index on its node, as `nvidia-smi` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuId(pub u32);

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a name was refused: what kind of name, which text, and what would have been right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFault {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl NameFault {
    pub(crate) fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), expected }
    }
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} is not valid: {}", self.what, self.text, self.expected)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(NameFault::new($what, text, $expected)) }
            }
        }
    };
}

name!(
    /// A node's hostname: letters, digits, `.`, `-`; 1 to 253 bytes; begins and ends with a letter or digit.
    NodeName,
    "node name",
    "expected letters, digits, '.' and '-', beginning and ending with a letter or digit, at most 253",
    |t| t.len() <= 253
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && t.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
);

name!(
    /// A task's name: `[a-z][a-z0-9-]{0,62}`. It begins with a letter, so it is never mistaken for an id.
    TaskName,
    "task name",
    "expected a lower-case letter, then lower-case letters, digits and '-', at most 63 in all",
    |t| t.len() <= 63
        && t.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

name!(
    /// An environment's name, which is also part of a tarball's file name and of an image tag:
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}`. Never `NULL`, which means "no container".
    EnvName,
    "environment name",
    "expected a letter or digit, then letters, digits, '_', '.' and '-', at most 128 in all, and not NULL",
    |t| t.len() <= 128
        && t != "NULL"
        && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_strictly_also_when_the_clock_steps_back() {
        let mut ids = IdSequence::after(0, 1);
        let mut last = 0;
        for ms in [5_000, 5_000, 5_001, 4_000, 4_000, 9_000, 1] {
            for _ in 0..5_000 {
                let id = ids.next(ms).get();
                assert!(id > last, "{id} after {last} at {ms} ms");
                last = id;
            }
        }
    }

    #[test]
    fn ids_fit_their_column_whatever_the_clock_shows() {
        let mut ids = IdSequence::after(0, 1);
        let mut last = 0;
        for ms in [5_000, u64::MAX, 1 << 41, 1 << 42, (1 << 41) - 1, 6_000] {
            let id = ids.next(ms).get();
            assert!(id > last && id <= i64::MAX as u64, "{id} after {last} at {ms} ms");
            last = id;
        }
        assert!(last >> 22 <= 6_000, "a clock that is wrong by ages is not followed");
    }

    #[test]
    fn what_was_given_before_is_left_out() {
        let mut ids = IdSequence::after(0, 1);
        let before = ids.next(5_000);
        ids.skip(TaskId((7_000 << 22) | 5), 6_000);
        assert!(ids.next(6_000).get() > (7_000 << 22) + (1 << 22) - 1, "the rest of its millisecond too");
        ids.skip(before, 6_000);
        ids.skip(TaskId(i64::MAX as u64), 6_000);
        assert_eq!(ids.next(6_000).get() >> 22, 7_001, "neither an old one nor one of a far future counts");
        for (count, now) in [(1, 9_000), (5_000, 9_000), (100_000, 1)] {
            let bound = ids.last_ms_of(count, now);
            let last = (0..count).map(|_| ids.next(now)).last().expect("there is one");
            assert!(last.get() >> 22 <= bound, "{count} at {now}");
        }
    }

    #[test]
    fn ids_exceed_the_newest_of_an_earlier_run_whatever_its_instance() {
        let newest = (7_000 << 22) | (0x3ff << 12) | 0xfff;
        assert!(IdSequence::after(newest, 0).next(6_000).get() > newest);
        assert!(IdSequence::after(newest, 0).next(7_000).get() > newest);
    }

    #[test]
    fn task_ids_are_plain_decimals() {
        assert_eq!("42".parse(), Ok(TaskId(42)));
        for bad in ["", "-1", "+1", " 1", "1 ", "0x10", "9223372036854775808", "99999999999999999999", "٣"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_have_their_alphabets() {
        for good in ["node1", "a.b-c", "GPU-01.lab"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "a-", ".", "a_b", "a b", "a/b", "ä", "a\n"] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        assert!("dev-box2".parse::<TaskName>().is_ok());
        for bad in ["", "2a", "Dev", "a_b", "a.b", &"a".repeat(64)] {
            assert!(bad.parse::<TaskName>().is_err(), "{bad:?}");
        }
        for bad in ["", "NULL", "../x", ".x", "a/b", "a b", "a:b"] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad:?}");
        }
    }
}
