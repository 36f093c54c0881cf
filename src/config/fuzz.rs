//! Any bytes as the configuration file.

use std::path::Path;
use std::time::Duration;

use super::{edit, parse};

/// What is taken is within its bounds, what is not names the file and a line of it, and a key that is set is set.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let name = Path::new("/etc/hakuriver/config.toml");
    let is_placed = |message: &str| {
        let line = message.strip_prefix("/etc/hakuriver/config.toml:").and_then(|rest| rest.split(':').next());
        line.and_then(|line| line.parse::<usize>().ok())
            .is_some_and(|line| (1..=text.lines().count() + 1).contains(&line))
    };
    match parse::parse(text, name, Some(Path::new("/root"))) {
        Ok((config, warnings)) => {
            assert!(warnings.iter().all(|warning| is_placed(warning)), "{warnings:?}");
            for time in [config.timing.heartbeat_interval, config.timing.cleanup_check_interval] {
                assert!((Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&time));
            }
            let paths =
                [&config.paths.shared_dir, &config.paths.state_dir, &config.db_file, &config.docker.container_dir];
            assert!(paths.into_iter().all(|path| path.is_absolute()));
            assert!(config.network.vps_ports.0 > 0 && config.network.vps_ports.0 <= config.network.vps_ports.1);
            let _span = config.timing.heartbeat_timeout();
            if let Ok(edited) = edit::set(text, "docker", "keep_versions", "7") {
                let (again, _) = parse::parse(&edited, name, Some(Path::new("/root"))).expect("one number was changed");
                assert_eq!(again.docker.keep_versions, 7, "{edited}");
                assert_eq!(again.paths, config.paths, "{edited}");
            }
        }
        Err(fault) => assert!(is_placed(&fault.0), "{fault}"),
    }
}
