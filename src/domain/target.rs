//! The target grammar: `HOST[:NUMA_ID][::GPU_ID[,GPU_ID…]]`.

use std::fmt;

use super::ids::{GpuId, NodeName, NumaId};
use super::spec::SpecFault;

/// A node, and optionally one of its NUMA nodes. (GPUs stand beside it: see [`parse`].)
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub node: NodeName,
    pub numa: Option<NumaId>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.numa {
            Some(numa) => write!(f, "{}:{numa}", self.node),
            None => self.node.fmt(f),
        }
    }
}

/// Parses a whole target; the GPU ids are empty where none are named.
///
/// # Errors
/// One sentence with the place of the fault (its column, from 1) and the accepted form.
pub fn parse(text: &str) -> Result<(Target, Vec<GpuId>), SpecFault> {
    let host_end = text.find(':').unwrap_or(text.len());
    let node = parse_host(text, host_end)?;
    let (numa, numa_end) = if text[host_end..].starts_with(':') && !text[host_end..].starts_with("::") {
        let start = host_end + 1;
        let end = text[start..].find(':').map_or(text.len(), |at| start + at);
        (Some(NumaId(parse_number(text, start, end, "a NUMA id")?)), end)
    } else {
        (None, host_end)
    };
    let gpus = if numa_end == text.len() {
        Vec::new()
    } else if text[numa_end..].starts_with("::") {
        parse_gpus(text, numa_end + 2)?
    } else {
        return Err(fault(text, numa_end, "GPU ids are set off with two colons"));
    };
    Ok((Target { node, numa }, gpus))
}

fn parse_host(text: &str, end: usize) -> Result<NodeName, SpecFault> {
    let host = &text[..end];
    if host.is_empty() {
        return Err(fault(text, 0, "the host is missing"));
    }
    if let Some((at, found)) = host.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
    {
        return Err(fault(text, at, &format!("{found:?} cannot stand in a host's name")));
    }
    host.parse().map_err(|_| {
        let at = if host.starts_with(['.', '-']) || host.len() > 253 { 0 } else { end - 1 };
        fault(text, at, "a host's name begins and ends with a letter or digit and has at most 253 characters")
    })
}

fn parse_gpus(text: &str, start: usize) -> Result<Vec<GpuId>, SpecFault> {
    let mut gpus = Vec::new();
    let mut at = start;
    for item in text[start..].split(',') {
        let id = GpuId(parse_number(text, at, at + item.len(), "a GPU id")?);
        if gpus.contains(&id) {
            return Err(fault(text, at, &format!("GPU {id} is named twice")));
        }
        gpus.push(id);
        at += item.len() + 1;
    }
    Ok(gpus)
}

/// The decimal number in `text[start..end]`.
fn parse_number(text: &str, start: usize, end: usize, what: &str) -> Result<u32, SpecFault> {
    let digits = &text[start..end];
    if digits.is_empty() {
        return Err(fault(text, start, &format!("{what} is missing")));
    }
    if let Some((at, found)) = digits.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        return Err(fault(text, start + at, &format!("{what} is a decimal number without a sign, not {found:?}")));
    }
    digits.parse().map_err(|_| fault(text, start, &format!("{what} is too large")))
}

/// The sentence for a fault at byte `at`.
fn fault(text: &str, at: usize, what: &str) -> SpecFault {
    let column = text[..at].chars().count() + 1;
    let shown: String = text.chars().take(80).collect();
    SpecFault(format!(
        "target {shown:?} is not valid at column {column}: {what}; expected HOST[:NUMA_ID][::GPU_ID[,GPU_ID...]], such as node1, node1:0 or node1::0,1"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_targets_parse_and_print() {
        let table: &[(&str, &str, &str, &[u32])] = &[
            ("node", "node", "node", &[]),
            ("node:0", "node:0", "node", &[]),
            ("node::0,1", "node", "node", &[0, 1]),
            ("node:1::0,1", "node:1", "node", &[0, 1]),
            ("gpu-01.lab:12::7", "gpu-01.lab:12", "gpu-01.lab", &[7]),
            ("7::3,0", "7", "7", &[3, 0]),
            ("a:4294967295", "a:4294967295", "a", &[]),
        ];
        for (text, printed, node, ids) in table {
            let (target, gpus) = parse(text).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(target.to_string(), *printed, "{text}");
            assert_eq!(target.node.as_str(), *node, "{text}");
            assert_eq!(gpus, ids.iter().map(|id| GpuId(*id)).collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn faults_name_their_column_and_the_form() {
        let long = "a".repeat(254);
        let table: &[(&str, usize, &str)] = &[
            ("", 1, "host is missing"),
            (":0", 1, "host is missing"),
            ("::0", 1, "host is missing"),
            ("node:", 6, "a NUMA id is missing"),
            ("node::", 7, "a GPU id is missing"),
            ("node:x", 6, "not 'x'"),
            ("node:+1", 6, "not '+'"),
            ("node:-1", 6, "not '-'"),
            ("node: 1", 6, "not ' '"),
            ("node:0:1", 7, "two colons"),
            ("node:0:", 7, "two colons"),
            ("node:0::", 9, "a GPU id is missing"),
            ("node:::0", 7, "not ':'"),
            ("node:0:::0", 9, "not ':'"),
            ("node::0::1", 8, "not ':'"),
            ("node::0,,1", 9, "a GPU id is missing"),
            ("node::,0", 7, "a GPU id is missing"),
            ("node::0,", 9, "a GPU id is missing"),
            ("node::0,0", 9, "GPU 0 is named twice"),
            ("node::0,00", 9, "GPU 0 is named twice"),
            ("node::+0", 7, "not '+'"),
            ("node::0x1", 8, "not 'x'"),
            ("node::0 ,1", 8, "not ' '"),
            ("node:4294967296", 6, "too large"),
            ("node::99999999999999999999", 7, "too large"),
            ("no_de", 3, "cannot stand"),
            ("no de:0", 3, "cannot stand"),
            ("nöde:0", 2, "cannot stand"),
            ("node\n", 5, "cannot stand"),
            ("node:٣", 6, "decimal"),
            ("node:0;rm", 7, "not ';'"),
            ("-node", 1, "begins and ends"),
            ("node-:1", 5, "begins and ends"),
            (&long, 1, "at most 253"),
        ];
        for (text, column, what) in table {
            let fault = parse(text).expect_err(text).to_string();
            assert!(fault.contains(&format!("at column {column}: ")), "{text}: {fault}");
            assert!(fault.contains(what), "{text}: {fault}");
            assert!(fault.contains("HOST[:NUMA_ID][::GPU_ID[,GPU_ID...]]"), "{text}: {fault}");
            assert_eq!(fault.lines().count(), 1, "{text}: {fault}");
        }
    }
}
