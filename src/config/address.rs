//! Where the Host listens, for the programs that use the same configuration.
//!
//! Where a port is 0, the system chooses one at every start of the Host. The Host's process writes what was chosen to
//! `<state>/host/address`, and clients with the same configuration read it there.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Config, ConfigFault};

/// The API's port where none is given.
pub const DEFAULT_API_PORT: u16 = 8000;

/// The ports of the Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    api: u16,
    tunnel: u16,
}

/// The file with the addresses of a Host that runs.
pub fn file(config: &Config) -> PathBuf {
    config.paths.state_dir.join("host").join("address")
}

/// The content of that file.
pub fn content(api: SocketAddr, tunnel: SocketAddr) -> String {
    format!("api {api}\ntunnel {tunnel}\n")
}

/// `ADDR:PORT` of the API, as this configuration reaches it.
///
/// # Errors
/// The port is 0, and no Host of this state directory has said which it chose.
pub fn api(config: &Config) -> Result<String, ConfigFault> {
    let port = match config.network.host_port {
        0 => chosen(config)?.api,
        port => port,
    };
    Ok(join(&config.network.host_reachable_address, port))
}

/// Address and port of the SSH proxy.
///
/// # Errors
/// As [`api`].
pub fn tunnel(config: &Config) -> Result<(String, u16), ConfigFault> {
    let port = match config.network.host_ssh_proxy_port {
        0 => chosen(config)?.tunnel,
        port => port,
    };
    Ok((config.network.host_reachable_address.clone(), port))
}

/// `ADDR:PORT`; an IPv6 address in brackets.
pub fn join(address: &str, port: u16) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Takes `ADDR`, `ADDR:PORT`, `[IPv6]`, `[IPv6]:PORT` or a bare IPv6 address apart.
///
/// # Errors
/// What would be right.
pub fn parse_endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    let fault = || format!("expected ADDR or ADDR:PORT, found {text:?}");
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(fault)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?;
            (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(fault)?) })
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
        None => text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port))),
    };
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'));
    if address.is_empty() || !is_name(address) {
        return Err(fault());
    }
    let port = match port {
        None => None,
        Some(port) if port.starts_with('+') => return Err(fault()),
        Some(port) => Some(port.parse::<u16>().map_err(|_| fault())?),
    };
    Ok((address.to_owned(), port))
}

fn chosen(config: &Config) -> Result<Ports, ConfigFault> {
    let file = file(config);
    let fault = |reason: &str| {
        ConfigFault(format!(
            "the port of the Host is 0 (the system's choice) in this configuration, and {} does not tell it: {reason}; \
             is the Host running?",
            file.display()
        ))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| fault(&error.to_string()))?;
    parse(&text).ok_or_else(|| fault("it is not of the expected form"))
}

fn parse(text: &str) -> Option<Ports> {
    let port = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse::<SocketAddr>().ok()?.port())
    };
    Some(Ports { api: port("api")?, tunnel: port("tunnel")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (api, tunnel) = ("127.0.0.1:40001".parse().expect("good"), "[::1]:40002".parse().expect("good"));
        assert_eq!(parse(&content(api, tunnel)), Some(Ports { api: 40_001, tunnel: 40_002 }));
        for bad in ["", "api 127.0.0.1:1\n", "api x\ntunnel y\n", "apix 1.2.3.4:1\ntunnel 1.2.3.4:1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn endpoints() {
        for (text, expected) in [
            ("head", Some(("head", None))),
            ("10.0.0.5:8000", Some(("10.0.0.5", Some(8000)))),
            ("head.lab:0", Some(("head.lab", Some(0)))),
            ("::1", Some(("::1", None))),
            ("[::1]", Some(("::1", None))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("", None),
            (":80", None),
            ("head:", None),
            ("head:x", None),
            ("head:+1", None),
            ("head:70000", None),
            ("http://head:80", None),
            ("[head]:80", None),
            ("[::1]80", None),
            ("a b", None),
        ] {
            let expected = expected.map(|(address, port)| (address.to_owned(), port));
            assert_eq!(parse_endpoint(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_fixed_port_needs_no_file_and_a_chosen_one_does() {
        let mut config = crate::config::defaults(std::path::Path::new("/nonexistent-hakuriver"));
        assert_eq!(api(&config), Ok("127.0.0.1:8000".to_owned()));
        assert_eq!(tunnel(&config), Ok(("127.0.0.1".to_owned(), 8002)));
        config.network.host_reachable_address = "::1".to_owned();
        assert_eq!(api(&config), Ok("[::1]:8000".to_owned()));
        config.network.host_port = 0;
        let fault = api(&config).expect_err("no Host runs there").to_string();
        assert!(fault.contains("/nonexistent-hakuriver/host/address"), "{fault}");
    }
}
