//! Sets of CPU numbers, of any size (ids beyond 1,023 exist and need not be dense).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A set of CPUs; prints and parses as the kernel's list form, `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<u32>);

impl fmt::Display for CpuSet {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("domain")
    }
}

impl FromStr for CpuSet {
    type Err = String;

    /// The kernel's list form; an empty or blank text is the empty set. CPU numbers are below 65,536.
    fn from_str(_text: &str) -> Result<Self, String> {
        unimplemented!("domain")
    }
}
