//! The machine's load between two looks.

use std::path::{Path, PathBuf};

use crate::api::node::Usage;
use crate::sys::procfs::{self, CpuTimes};

/// Looks at the machine again and again.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    before: Option<CpuTimes>,
}

impl Sampler {
    /// `root` is `/`. The first [`Sampler::sample`] tells the load since now.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), before: procfs::cpu_times(root).ok() }
    }

    /// The load since the last call. What cannot be read is None: a machine without sensors is a machine like any other.
    pub fn sample(&mut self) -> Usage {
        let now = procfs::cpu_times(&self.root).ok();
        let cpu_percent = self.before.zip(now).and_then(|(before, now)| percent(before, now));
        self.before = now.or(self.before);
        let memory = procfs::memory(&self.root).ok();
        let temperatures = temperatures(&self.root);
        Usage {
            cpu_percent,
            memory_used_bytes: memory.map(|memory| memory.total - memory.available),
            memory_total_bytes: memory.map(|memory| memory.total),
            avg_temp: mean(&temperatures),
            max_temp: temperatures.iter().copied().reduce(f64::max),
        }
    }
}

/// None where no tick has passed, or the counters went back (they do, by a little, on some kernels).
fn percent(before: CpuTimes, now: CpuTimes) -> Option<f64> {
    let total = now.total.checked_sub(before.total).filter(|total| *total > 0)?;
    let busy = now.busy.saturating_sub(before.busy).min(total);
    Some((busy as f64 / total as f64 * 1000.0).round() / 10.0)
}

fn mean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64 * 10.0).round() / 10.0)
}

/// Degrees Celsius of all CPU sensors: those of the drivers for CPUs in hwmon, else the package sensors among the thermal zones.
fn temperatures(root: &Path) -> Vec<f64> {
    let mut found = Vec::new();
    for folder in folders(&root.join("sys/class/hwmon")) {
        if matches!(text(&folder.join("name")).as_deref(), Some("coretemp" | "k10temp" | "zenpower" | "cpu_thermal")) {
            let inputs = folders(&folder).into_iter().filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("temp") && name.ends_with("_input")
            });
            found.extend(inputs.filter_map(|path| degrees(&path)));
        }
    }
    if found.is_empty() {
        for folder in folders(&root.join("sys/class/thermal")) {
            if text(&folder.join("type")).as_deref() == Some("x86_pkg_temp") {
                found.extend(degrees(&folder.join("temp")));
            }
        }
    }
    found
}

/// What stands in a folder; nothing if it is not there.
fn folders(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// From thousandths. A sensor without a reading gives an error, zero or nonsense.
fn degrees(path: &Path) -> Option<f64> {
    let value = text(path)?.parse::<f64>().ok()? / 1000.0;
    (value > -40.0 && value < 150.0 && value != 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn write(scratch: &Scratch, path: &str, text: &str) {
        let path = scratch.path().join(path);
        std::fs::create_dir_all(path.parent().expect("it stands in a folder")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }

    #[test]
    fn the_load_is_that_between_two_looks() {
        let scratch = Scratch::new();
        write(&scratch, "proc/stat", "cpu  100 0 0 900\n");
        write(&scratch, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n");
        let mut sampler = Sampler::new(scratch.path());
        write(&scratch, "proc/stat", "cpu  175 0 0 925\n");
        let usage = sampler.sample();
        assert_eq!(usage.cpu_percent, Some(75.0));
        assert_eq!((usage.memory_used_bytes, usage.memory_total_bytes), (Some(600 << 10), Some(1000 << 10)));
        assert_eq!((usage.avg_temp, usage.max_temp), (None, None), "no sensors");
        assert_eq!(sampler.sample().cpu_percent, None, "no time has passed");
        write(&scratch, "proc/stat", "cpu  175 0 0 1025\n");
        assert_eq!(sampler.sample().cpu_percent, Some(0.0));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_fault() {
        let scratch = Scratch::new();
        let usage = Sampler::new(scratch.path()).sample();
        assert_eq!((usage.cpu_percent, usage.memory_used_bytes, usage.avg_temp), (None, None, None));
    }

    #[test]
    fn the_sensors_of_cpus_count_and_zones_stand_in_for_them() {
        let scratch = Scratch::new();
        write(&scratch, "sys/class/thermal/thermal_zone0/type", "acpitz\n");
        write(&scratch, "sys/class/thermal/thermal_zone0/temp", "20000\n");
        write(&scratch, "sys/class/thermal/thermal_zone1/type", "x86_pkg_temp\n");
        write(&scratch, "sys/class/thermal/thermal_zone1/temp", "47000\n");
        let mut sampler = Sampler::new(scratch.path());
        assert_eq!(sampler.sample().max_temp, Some(47.0));
        write(&scratch, "sys/class/hwmon/hwmon0/name", "nvme\n");
        write(&scratch, "sys/class/hwmon/hwmon0/temp1_input", "90000\n");
        write(&scratch, "sys/class/hwmon/hwmon3/name", "coretemp\n");
        write(&scratch, "sys/class/hwmon/hwmon3/temp1_input", "50000\n");
        write(&scratch, "sys/class/hwmon/hwmon3/temp1_max", "100000\n");
        write(&scratch, "sys/class/hwmon/hwmon3/temp2_input", "61500\n");
        write(&scratch, "sys/class/hwmon/hwmon3/temp3_input", "garbage\n");
        let usage = sampler.sample();
        assert_eq!((usage.avg_temp, usage.max_temp), (Some(55.8), Some(61.5)));
    }
}
