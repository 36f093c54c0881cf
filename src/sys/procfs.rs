//! Figures of the whole machine from `/proc`.

use std::io;
use std::path::Path;

/// What all CPUs together have done since the machine started, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// Neither idle nor waiting for a disk.
    pub busy: u64,
    pub total: u64,
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    /// What a new program could have without swapping.
    pub available: u64,
}

/// `<root>/proc/stat`
///
/// # Errors
/// It cannot be read, or has another form.
pub fn cpu_times(root: &Path) -> io::Result<CpuTimes> {
    read_as(&root.join("proc/stat"), parse_stat)
}

/// `<root>/proc/meminfo`
///
/// # Errors
/// It cannot be read, or has another form.
pub fn memory(root: &Path) -> io::Result<Memory> {
    read_as(&root.join("proc/meminfo"), parse_meminfo)
}

/// Reads a file of the kernel and parses it; every fault names the path. A process's name can be any bytes: what is no text is
/// replaced.
pub(super) fn read_as<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
    let bytes = std::fs::read(path)
        .map_err(|fault| io::Error::new(fault.kind(), format!("cannot read {}: {fault}", path.display())))?;
    // A program's name, which stands among the figures, may have any bytes.
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("cannot understand the content of {}", path.display()))
    })
}

/// The first line: `cpu user nice system idle iowait irq softirq steal guest guest_nice`. The last two are already in
/// the first two (proc(5)); steal is time that someone else used, so it is neither idle nor ours, and counts as busy.
fn parse_stat(text: &str) -> Option<CpuTimes> {
    let figures: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).take(8).collect();
    if figures.len() < 4 {
        return None;
    }
    let total: u64 = figures.iter().sum();
    let idle = figures[3] + figures.get(4).copied().unwrap_or(0);
    Some(CpuTimes { busy: total - idle, total })
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let kib = |name: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let total = kib("MemTotal")?;
    // Kernels before 3.14 do not tell MemAvailable.
    let available = kib("MemAvailable").or_else(|| Some(kib("MemFree")? + kib("Cached")?))?;
    Some(Memory { total: total * 1024, available: available.min(total) * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_leave_out_idle_and_guests() {
        let text = "cpu  100 10 50 800 40 5 3 2 70 9\ncpu0 1 2 3 4\nintr 5\n";
        assert_eq!(parse_stat(text), Some(CpuTimes { busy: 170, total: 1010 }));
        assert_eq!(parse_stat("cpu  1 2 3 4\n"), Some(CpuTimes { busy: 6, total: 10 }));
        for bad in ["", "cpu 1 2 3", "cpu0 1 2 3 4", "cpu a b c d"] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemFree:  100 kB\nMemAvailable:   1024 kB\nCached: 300 kB\n";
        assert_eq!(parse_meminfo(text), Some(Memory { total: 2 << 20, available: 1 << 20 }));
        let old = "MemTotal:        2048 kB\nMemFree:  100 kB\nBuffers: 4 kB\nCached: 300 kB\n";
        assert_eq!(parse_meminfo(old), Some(Memory { total: 2 << 20, available: 400 << 10 }));
        assert_eq!(parse_meminfo("MemTotal: many kB\n"), None);
    }

    #[test]
    fn this_machine_tells() {
        let memory = memory(Path::new("/")).expect("/proc is mounted");
        assert!(memory.total >= memory.available && memory.available > 0);
        assert!(cpu_times(Path::new("/")).expect("/proc is mounted").total > 0);
        let fault = cpu_times(Path::new("/nowhere")).expect_err("there is no such folder");
        assert!(fault.to_string().contains("/nowhere/proc/stat"), "{fault}");
    }
}
