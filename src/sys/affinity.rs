//! Which CPUs this process may run on. A bitmap of our own: glibc's `cpu_set_t` ends at CPU 1,023.

use std::collections::BTreeSet;
use std::io;

use crate::domain::cpuset::CpuSet;

/// The CPUs that the calling thread may run on (sched_getaffinity(2)).
///
/// # Errors
/// The kernel refuses to say, or has more than a million CPUs.
pub fn allowed() -> io::Result<CpuSet> {
    // The kernel answers EINVAL when the bitmap is smaller than its own, whose size it does not tell.
    let mut bytes = 128;
    while bytes <= 1 << 17 {
        let mut bitmap = vec![0_u64; bytes / 8];
        // SAFETY: the pointer and the length in bytes describe `bitmap`; the call writes no more than that.
        let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, bitmap.as_mut_ptr()) };
        if got >= 0 {
            return Ok(cpus_of(&bitmap));
        }
        let fault = io::Error::last_os_error();
        if fault.raw_os_error() != Some(libc::EINVAL) {
            return Err(io::Error::new(fault.kind(), format!("cannot read the CPU affinity: {fault}")));
        }
        bytes *= 2;
    }
    Err(io::Error::other("cannot read the CPU affinity: more than a million CPUs"))
}

/// A set as the kernel takes it: at least 1,024 bits, so that a kernel for fewer CPUs finds all that it looks at.
pub(super) fn bitmap(set: &CpuSet) -> Vec<u64> {
    let words = set.iter().last().map_or(0, |last| last as usize / 64 + 1);
    let mut bitmap = vec![0_u64; words.max(16)];
    for cpu in set.iter() {
        bitmap[cpu as usize / 64] |= 1 << (cpu % 64);
    }
    bitmap
}

fn cpus_of(bitmap: &[u64]) -> CpuSet {
    let mut cpus = BTreeSet::new();
    for (word, start) in bitmap.iter().zip((0_u32..).step_by(64)) {
        cpus.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| start + bit));
    }
    CpuSet(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_may_run_somewhere() {
        assert!(!allowed().expect("the kernel tells").0.is_empty());
    }

    #[test]
    fn bits_beyond_1023_count() {
        let mut bitmap = vec![0; 40];
        bitmap[0] = 0b1001;
        bitmap[32] = 1 << 63;
        assert_eq!(cpus_of(&bitmap).0, BTreeSet::from([0, 3, 2111]));
    }
}
