//! GPUs, as `nvidia-smi` tells them.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::public::GpuRow;
use crate::domain::ids::NumaId;
use crate::sys::command::{CommandFault, Program};
use crate::sys::shutdown::Stop;
use crate::sys::thread;
use crate::warning;

/// One GPU and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub row: GpuRow,
    /// `GPU-…`; letters, digits and `-` alone, because it becomes part of an argument of Docker.
    pub uuid: String,
    pub numa: Option<NumaId>,
    /// The driver answers, and does not name it any more. (One that does not answer at all says nothing about any.)
    pub gone: bool,
}

/// The columns that are asked for, in the order of [`parse`].
const COLUMNS: &str = "index,uuid,name,driver_version,pci.bus_id,utilization.gpu,clocks.current.graphics,\
utilization.memory,clocks.current.memory,memory.total,memory.used,memory.free,temperature.gpu,fan.speed,power.draw,power.limit";
/// A healthy driver answers within a second, also where it must first wake the device.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long to leave a driver alone that failed or hung: each try may leave a process that cannot be killed.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// The GPUs of the machine, kept fresh by a thread of its own: `nvidia-smi` takes its time, and may hang.
#[derive(Clone, Debug)]
pub struct Watch {
    latest: Arc<Mutex<Vec<Reading>>>,
}

impl Watch {
    /// Reads them now (5 s at most), and then every `interval` until `stop`. Where there is no `nvidia-smi` there are no
    /// GPUs, and no thread: a driver that is installed later is found when the Runner is restarted. `changed` is called when
    /// there is one more, or one less.
    pub fn start(interval: Duration, stop: &Stop, changed: impl Fn() + Send + 'static) -> Self {
        let first = read(Path::new("/"));
        let absent = matches!(first, Err(CommandFault::CannotStart { .. }));
        let watch = Self { latest: Arc::default() };
        let mut wait = watch.note(first, None, interval);
        if !absent {
            let (watch, stop) = (watch.clone(), stop.clone());
            let started = thread::spawn("gpus", move || {
                let mut present = watch.present();
                while !stop.wait(wait) {
                    wait = watch.note(read(Path::new("/")), Some(wait), interval);
                    let now = watch.present();
                    if std::mem::replace(&mut present, now.clone()) != now {
                        changed();
                    }
                }
            });
            if let Err(fault) = started {
                warning!("the figures of the GPUs stay as they are: no thread can be started: {fault}");
            }
        }
        watch
    }

    /// Of a machine without any.
    #[cfg(test)]
    pub(crate) fn of_none() -> Self {
        Self { latest: Arc::default() }
    }

    /// What was read last. A GPU that was seen once stays: when the driver tells nothing of it any more,
    /// what changes is -1.
    pub fn latest(&self) -> Vec<Reading> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that were there once, and are not any more, by what they were called.
    pub fn gone(&self) -> Vec<String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().filter(|gpu| gpu.gone).map(|gpu| gpu.uuid.clone()).collect()
    }

    /// The others, as far as is known.
    fn present(&self) -> Vec<String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().filter(|gpu| !gpu.gone).map(|gpu| gpu.uuid.clone()).collect()
    }

    /// Stores a reading; answers how long to wait before the next one.
    fn note(&self, read: Result<Vec<Reading>, CommandFault>, waited: Option<Duration>, interval: Duration) -> Duration {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => {
                *latest = merge(&latest, new, Silence::Gone);
                interval
            }
            Err(CommandFault::CannotStart { .. }) if latest.is_empty() => RETRY.1,
            Err(fault) => {
                *latest = merge(&latest, Vec::new(), Silence::Unknown);
                drop(latest);
                let next = match waited {
                    Some(waited) if waited >= RETRY.0 => (waited * 2).min(RETRY.1),
                    _ => RETRY.0,
                };
                warning!("the GPUs cannot be read; next try in {} s: {fault}", next.as_secs());
                next
            }
        }
    }
}

/// What it means that a GPU is not among the new readings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silence {
    Gone,
    Unknown,
}

/// The new readings, and what was known before and is missing in them, with figures that are unknown.
fn merge(known: &[Reading], new: Vec<Reading>, silence: Silence) -> Vec<Reading> {
    let mut all = new;
    for old in known {
        if !all.iter().any(|gpu| gpu.uuid == old.uuid) {
            let gone = old.gone || silence == Silence::Gone;
            if gone && !old.gone {
                warning!("GPU {} ({}) is gone: nvidia-smi does not name it any more", old.row.gpu_id, old.uuid);
            }
            all.push(Reading { row: without_figures(&old.row), gone, ..old.clone() });
        }
    }
    all.sort_by_key(|gpu| gpu.row.gpu_id);
    all
}

fn without_figures(row: &GpuRow) -> GpuRow {
    GpuRow {
        gpu_id: row.gpu_id,
        name: row.name.clone(),
        driver_version: row.driver_version.clone(),
        pci_bus_id: row.pci_bus_id.clone(),
        gpu_utilization: -1,
        graphics_clock_mhz: -1,
        mem_utilization: -1,
        mem_clock_mhz: -1,
        memory_total_mib: row.memory_total_mib,
        memory_used_mib: -1,
        memory_free_mib: -1,
        temperature: -1,
        fan_speed: -1,
        power_usage_mw: -1,
        power_limit_mw: -1,
    }
}

/// Asks `nvidia-smi`. `root` is `/`, where sysfs tells the NUMA nodes.
fn read(root: &Path) -> Result<Vec<Reading>, CommandFault> {
    let query = format!("--query-gpu={COLUMNS}");
    let program = Program::new(["nvidia-smi", &query, "--format=csv,noheader,nounits"], DEADLINE);
    let output = program.run()?;
    let mut readings = parse(&String::from_utf8_lossy(&output.stdout));
    if readings.is_empty() {
        // A status other than 0 with some GPUs means that others have fallen off the bus; without any it is a failure.
        // Some versions say "No devices were found" with status 0, others with 6.
        let none = String::from_utf8_lossy(&output.stdout).contains("No devices were found");
        return if none { Ok(readings) } else { output.ok().map(|_| readings) };
    }
    for gpu in &mut readings {
        gpu.numa = numa_of(root, &gpu.row.pci_bus_id);
    }
    Ok(readings)
}

/// One line a GPU, values separated by `, `. Lines of another form (warnings, a lost device) are left out, and so is what is told of
/// one GPU or one number a second time: two tasks would get the same.
fn parse(csv: &str) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    for reading in csv.lines().filter_map(parse_line) {
        let is_told = |known: &Reading| known.uuid == reading.uuid || known.row.gpu_id == reading.row.gpu_id;
        if !readings.iter().any(is_told) {
            readings.push(reading);
        }
    }
    readings
}

fn parse_line(line: &str) -> Option<Reading> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    // The name stands third; should it hold a comma, the fields after it are counted from the end.
    let after_name = fields.len().checked_sub(13).filter(|at| *at >= 3)?;
    let [driver, bus, figures @ ..] = &fields[after_name..] else { return None };
    let uuid = fields[1];
    let plain = uuid.starts_with("GPU-") && uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        return None;
    }
    let whole = |at: usize| figure(figures[at]).map_or(-1, to_i64);
    let milli = |at: usize| figure(figures[at]).map_or(-1, |value| to_i64(value * 1000.0));
    Some(Reading {
        row: GpuRow {
            gpu_id: fields[0].parse().ok()?,
            name: fields[2..after_name].join(", "),
            driver_version: (*driver).to_owned(),
            pci_bus_id: (*bus).to_owned(),
            gpu_utilization: whole(0),
            graphics_clock_mhz: whole(1),
            mem_utilization: whole(2),
            mem_clock_mhz: whole(3),
            memory_total_mib: whole(4),
            memory_used_mib: whole(5),
            memory_free_mib: whole(6),
            temperature: whole(7),
            fan_speed: whole(8),
            power_usage_mw: milli(9),
            power_limit_mw: milli(10),
        },
        uuid: uuid.to_owned(),
        numa: None,
        gone: false,
    })
}

/// None for `[N/A]`, `[Not Supported]`, `[Unknown Error]`, `[Insufficient Permissions]` … and for what is no amount.
fn figure(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| (0.0..1e12).contains(value))
}

/// Rounded. The value was checked by [`figure`].
fn to_i64(value: f64) -> i64 {
    value.round() as i64
}

/// The NUMA node of a PCI device; None where the kernel does not know it (it says -1).
fn numa_of(root: &Path, bus_id: &str) -> Option<NumaId> {
    let path = root.join("sys/bus/pci/devices").join(sysfs_name(bus_id)?).join("numa_node");
    std::fs::read_to_string(path).ok()?.trim().parse().ok().map(NumaId)
}

/// `00000000:3B:00.0` (a domain of eight digits, capitals) is `0000:3b:00.0` in sysfs.
fn sysfs_name(bus_id: &str) -> Option<String> {
    let (domain, rest) = bus_id.split_once(':')?;
    if !rest.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
        return None;
    }
    let domain = u32::from_str_radix(domain, 16).ok()?;
    Some(format!("{domain:04x}:{}", rest.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    const TWO: &str = "\
0, GPU-9d8e2a7c-3f10-1be2-77a4-0c5f4d9e6a11, NVIDIA GeForce RTX 3090, 535.183.01, 00000000:01:00.0, 98, 1695, 45, 9501, 24576, 20480, 3765, 71, 62, 348.21, 350.00
1, GPU-01c4b3de-5a8f-b0a9-41c3-8a7d2e4f6b22, NVIDIA GeForce RTX 3090, 535.183.01, 00000000:C1:00.0, 0, 210, 0, 405, 24576, 1, 24244, 34, 0, 21.90, 350.00
";

    /// Server cards have no fan, and some drivers give no utilization in MIG mode.
    const EIGHT: &str = "\
0, GPU-aaaaaaaa-0000-0000-0000-000000000000, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:07:00.0, [N/A], 1410, [N/A], 1593, 81920, 40000, 41251, 51, [N/A], 254.70, 400.00
1, GPU-aaaaaaaa-0000-0000-0000-000000000001, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:0F:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 29, [Not Supported], 60.12, 400.00
2, GPU-aaaaaaaa-0000-0000-0000-000000000002, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:47:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 27, [N/A], 59.97, 400.00
Unable to determine the device handle for GPU0000:4E:00.0: GPU is lost.  Reboot the system to recover this GPU
4, GPU-aaaaaaaa-0000-0000-0000-000000000004, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:87:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 33, [N/A], [Unknown Error], 400.00
5, GPU-aaaaaaaa-0000-0000-0000-000000000005, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:90:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 31, [N/A], 61.50, 400.00
6, GPU-aaaaaaaa-0000-0000-0000-000000000006, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:B7:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 32, [N/A], 62.04, 400.00
7, GPU-aaaaaaaa-0000-0000-0000-000000000007, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:BD:00.0, 0, 210, 0, 1593, 81920, 4, 81246, 31, [N/A], 60.81, 400.00
";

    #[test]
    fn two_gpus_with_all_their_figures() {
        let gpus = parse(TWO);
        assert_eq!(gpus.len(), 2);
        assert_eq!(
            gpus[0].row,
            GpuRow {
                gpu_id: 0,
                name: "NVIDIA GeForce RTX 3090".into(),
                driver_version: "535.183.01".into(),
                pci_bus_id: "00000000:01:00.0".into(),
                gpu_utilization: 98,
                graphics_clock_mhz: 1695,
                mem_utilization: 45,
                mem_clock_mhz: 9501,
                memory_total_mib: 24576,
                memory_used_mib: 20480,
                memory_free_mib: 3765,
                temperature: 71,
                fan_speed: 62,
                power_usage_mw: 348_210,
                power_limit_mw: 350_000,
            }
        );
        assert_eq!(gpus[1].uuid, "GPU-01c4b3de-5a8f-b0a9-41c3-8a7d2e4f6b22");
        assert_eq!(gpus[1].row.power_usage_mw, 21_900);
    }

    #[test]
    fn eight_gpus_of_which_one_is_lost_and_some_tell_little() {
        let gpus = parse(EIGHT);
        assert_eq!(gpus.iter().map(|gpu| gpu.row.gpu_id).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7]);
        let row = &gpus[0].row;
        assert_eq!((row.gpu_utilization, row.mem_utilization, row.fan_speed), (-1, -1, -1));
        assert_eq!((row.memory_total_mib, row.power_usage_mw), (81_920, 254_700));
        assert_eq!((gpus[1].row.fan_speed, gpus[3].row.power_usage_mw), (-1, -1));
    }

    #[test]
    fn a_gpu_that_is_told_of_twice_is_one() {
        let again = TWO.lines().next().expect("a line").replace("0, GPU-", "7, GPU-");
        let number = TWO.lines().next().expect("a line").replace("GPU-9d8e", "GPU-0000");
        let gpus = parse(&format!("{TWO}{again}\n{number}\n"));
        assert_eq!(gpus.iter().map(|gpu| gpu.row.gpu_id).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_is_no_gpu_is_left_out() {
        let gpu = "0, GPU-1, N, 5, 0:1:0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1.5, 2";
        assert_eq!(parse(gpu).len(), 1);
        for bad in [
            String::new(),
            "No devices were found".into(),
            gpu.replace("GPU-1", "GPU-1\",\"x"),
            gpu.replace("GPU-1", "MIG 1"),
            gpu.replace("0, GPU", "x, GPU"),
            gpu.replace(", 9, 1.5", ""),
        ] {
            assert_eq!(parse(&bad), [], "{bad:?}");
        }
        assert_eq!(parse(&gpu.replace("N,", "N, Inc,"))[0].row.name, "N, Inc");
        for bad in ["-1", "NaN", "inf", "1e300", "[N/A]", ""] {
            assert_eq!(figure(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_gpu_that_falls_silent_is_kept_without_figures() {
        let watch = Watch { latest: Arc::default() };
        let second = Duration::from_secs(1);
        assert_eq!(watch.note(Ok(parse(TWO)), None, second), second);
        assert_eq!(watch.note(Ok(parse(TWO).split_off(1)), Some(second), second), second);
        let latest = watch.latest();
        assert_eq!(latest.len(), 2);
        let row = &latest[0].row;
        assert_eq!((row.temperature, row.power_usage_mw, row.memory_total_mib), (-1, -1, 24576));
        assert_eq!(latest[1].row.temperature, 34);
        assert_eq!((watch.gone(), watch.present()), (vec![latest[0].uuid.clone()], vec![latest[1].uuid.clone()]));

        let hung =
            || CommandFault::TimedOut { argv: vec!["nvidia-smi".into()], after: DEADLINE, stderr: String::new() };
        let mut wait = watch.note(Err(hung()), Some(second), second);
        assert_eq!(wait, RETRY.0);
        for _ in 0..10 {
            wait = watch.note(Err(hung()), Some(wait), second);
        }
        assert_eq!(wait, RETRY.1, "a driver that hangs is asked ever more rarely");
        assert!(watch.latest().iter().all(|gpu| gpu.row.temperature == -1));
        assert_eq!(watch.present().len(), 1, "a driver that hangs says nothing about the other one");
        assert_eq!(watch.note(Ok(parse(TWO)), Some(wait), second), second);
        assert!(watch.gone().is_empty(), "it came back");
    }

    #[test]
    fn the_numa_node_is_found_by_the_kernels_name_of_the_device() {
        for (id, name) in [
            ("00000000:3B:00.0", Some("0000:3b:00.0")),
            ("00010000:01:00.0", Some("10000:01:00.0")),
            ("0000:01:00.0", Some("0000:01:00.0")),
            ("", None),
            ("x:01:00.0", None),
            ("0000:../../x", None),
        ] {
            assert_eq!(sysfs_name(id).as_deref(), name, "{id:?}");
        }
        let scratch = Scratch::new();
        let folder = scratch.path().join("sys/bus/pci/devices/0000:3b:00.0");
        std::fs::create_dir_all(&folder).expect("it can be made");
        for (text, numa) in [("1\n", Some(NumaId(1))), ("-1\n", None)] {
            std::fs::write(folder.join("numa_node"), text).expect("it can be written");
            assert_eq!(numa_of(scratch.path(), "00000000:3B:00.0"), numa);
        }
        assert_eq!(numa_of(scratch.path(), "00000000:3C:00.0"), None);
    }
}
