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

fn cpus_of(bitmap: &[u64]) -> CpuSet {
    let mut cpus = BTreeSet::new();
    for (word, start) in bitmap.iter().zip((0_u32..).step_by(64)) {
        cpus.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| start + bit));
    }
    CpuSet(cpus)
}

/// The set as the kernel takes it: whole words, as many as its highest number needs. For CPUs and for NUMA nodes.
pub(super) fn bitmap_of(set: &CpuSet) -> Vec<u64> {
    let words = set.iter().last().map_or(1, |highest| highest as usize / 64 + 1);
    let mut bitmap = vec![0_u64; words];
    for number in set.iter() {
        bitmap[number as usize / 64] |= 1 << (number % 64);
    }
    bitmap
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

    #[test]
    fn a_bitmap_holds_what_was_put_in() {
        for list in ["0", "0-3,8", "63,64", "1023-1025,2111", "65535"] {
            let set: CpuSet = list.parse().expect("a list");
            assert_eq!(cpus_of(&bitmap_of(&set)), set, "{list}");
        }
        assert_eq!(bitmap_of(&CpuSet::default()), [0]);
    }
}
