//! Any bytes as what `nvidia-smi` prints.

use super::{Reading, Silence, merge, parse, sysfs_name};

/// GPUs whose names and figures can be passed on as they are.
pub(crate) fn output(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let readings = parse(&text);
    assert!(readings.len() <= text.lines().count());
    for Reading { row, uuid, .. } in &readings {
        // It becomes part of an argument of Docker, between double quotes and commas.
        assert!(uuid.starts_with("GPU-") && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        let figures = [
            row.gpu_utilization,
            row.graphics_clock_mhz,
            row.mem_utilization,
            row.mem_clock_mhz,
            row.memory_total_mib,
            row.memory_used_mib,
            row.memory_free_mib,
            row.temperature,
            row.fan_speed,
            row.power_usage_mw,
            row.power_limit_mw,
        ];
        assert!(figures.into_iter().all(|figure| (-1..=1_000_000_000_000_000).contains(&figure)), "{row:?}");
        // It becomes the name of a folder below /sys.
        let name = sysfs_name(&row.pci_bus_id);
        assert!(name.is_none_or(|name| !name.contains(['/', '\0'])));
    }
    let mut uuids: Vec<&String> = readings.iter().map(|gpu| &gpu.uuid).collect();
    let mut ids: Vec<u32> = readings.iter().map(|gpu| gpu.row.gpu_id).collect();
    let count = readings.len();
    for distinct in [
        {
            uuids.sort();
            uuids.dedup();
            uuids.len()
        },
        {
            ids.sort_unstable();
            ids.dedup();
            ids.len()
        },
    ] {
        assert_eq!(distinct, count, "one GPU twice would be given to two tasks");
    }
    let gone = merge(&readings, Vec::new(), Silence::Unknown);
    assert_eq!(gone.len(), count);
}
