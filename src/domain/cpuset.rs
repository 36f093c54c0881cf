//! Sets of CPU numbers, of any size (ids beyond 1,023 exist and need not be dense).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A set of CPUs; prints and parses as the kernel's list form, `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<u32>);

impl CpuSet {
    /// Numbers above this are refused: the kernel's limit is far below (8,192), and a range in a text must not be able
    /// to fill the memory.
    pub const MAX_ID: u32 = 65_535;

    /// How many CPUs are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This CPU is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Its CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// What is in either.
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// What is in this one alone.
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = String;

    /// The kernel's list form; an empty or blank text is the empty set. CPU numbers are below 65,536.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_ascii();
        let mut cpus = BTreeSet::new();
        if text.is_empty() {
            return Ok(Self(cpus));
        }
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (parse_id(first, text)?, parse_id(last, text)?);
            if first > last {
                return Err(fault(text, &format!("the range {first}-{last} runs backwards")));
            }
            // A text of thousands of overlapping ranges would cost their product; no kernel writes one.
            if !cpus.is_empty() && cpus.range(first..=last).next().is_some() {
                return Err(fault(text, &format!("{first}-{last} names a CPU twice")));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

fn parse_id(digits: &str, text: &str) -> Result<u32, String> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let shown: String = digits.chars().take(20).collect();
        return Err(fault(text, &format!("{shown:?} is no CPU number")));
    }
    match digits.parse() {
        Ok(id) if id <= CpuSet::MAX_ID => Ok(id),
        _ => Err(fault(text, &format!("CPU numbers end at {}", CpuSet::MAX_ID))),
    }
}

fn fault(text: &str, what: &str) -> String {
    let shown: String = text.chars().take(60).collect();
    format!("CPU list {shown:?} is not valid: {what}; expected a form such as 0-3,8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_and_print_as_the_kernel_writes_them() {
        let table: &[(&str, &[u32], &str)] = &[
            ("", &[], ""),
            (" \n", &[], ""),
            ("0\n", &[0], "0"),
            ("0-3,8", &[0, 1, 2, 3, 8], "0-3,8"),
            ("8,0-3", &[0, 1, 2, 3, 8], "0-3,8"),
            ("0,1,2,3", &[0, 1, 2, 3], "0-3"),
            ("0,2,4", &[0, 2, 4], "0,2,4"),
            ("6-6", &[6], "6"),
            ("1022-1025", &[1022, 1023, 1024, 1025], "1022-1025"),
            ("65534-65535", &[65_534, 65_535], "65534-65535"),
        ];
        for (text, cpus, printed) in table {
            let set: CpuSet = text.parse().unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(set, cpus.iter().copied().collect(), "{text:?}");
            assert_eq!(set.to_string(), *printed, "{text:?}");
        }
    }

    #[test]
    fn the_largest_numbers_print() {
        assert_eq!([u32::MAX - 1, u32::MAX].into_iter().collect::<CpuSet>().to_string(), "4294967294-4294967295");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in [
            ",",
            "0,",
            ",0",
            "-",
            "0-",
            "-3",
            "3-1",
            "a",
            "0-3:1/2",
            "0 1",
            "+1",
            "0x1",
            "65536",
            "0-4294967295",
            "1,1",
            "0-3,2",
            "0--3",
            "٣",
            "99999999999999999999",
        ] {
            let fault = bad.parse::<CpuSet>().expect_err(bad);
            assert!(fault.contains("0-3,8"), "{fault}");
        }
    }

    #[test]
    fn sets_combine() {
        let (a, b): (CpuSet, CpuSet) = ([1, 2, 3].into_iter().collect(), [3, 4].into_iter().collect());
        assert_eq!(a.and(&b).to_string(), "3");
        assert_eq!(a.or(&b).to_string(), "1-4");
        assert_eq!(a.without(&b).to_string(), "1-2");
        assert!(a.contains(2) && !a.contains(4) && a.len() == 3 && !a.is_empty());
    }
}
