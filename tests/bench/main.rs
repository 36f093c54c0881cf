//! Speed and size, each figure beside its reference from the same run. Prints a table and writes target/bench.json.
//!
//! Machines are shared and noisy: medians of several interleaved runs, and ratios before absolute values.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(unreachable_pub, reason = "no library: whatever a module shows, it shows to this crate")]

// The harness is the tests' own; a bench uses less of it.
#[allow(dead_code)]
#[path = "../daemon.rs"]
mod daemon;
#[allow(dead_code)]
#[path = "../env/mod.rs"]
mod env;
#[allow(dead_code)]
#[path = "../fake_node.rs"]
mod fake_node;
#[allow(dead_code)]
#[path = "../far_node.rs"]
mod far_node;
#[allow(dead_code)]
#[path = "../http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../invariants/mod.rs"]
mod invariants;
#[allow(dead_code)]
#[path = "../line.rs"]
mod line;
#[allow(dead_code)]
#[path = "../program.rs"]
mod program;
#[allow(dead_code)]
#[path = "../tasks.rs"]
mod tasks;
#[allow(dead_code)]
#[path = "../wait.rs"]
mod wait;

mod api;
mod environment;
mod figure;
mod host;
mod memory;
mod output;
mod start_up;
mod task;
mod tunnel;
mod vps;

use figure::Figure;
use nanoserde::SerJson;

/// Measures one thing, with servers of its own.
type Part = fn() -> Vec<Figure>;

fn main() {
    // `cargo bench` passes --bench; a name runs the parts of that name only.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, Part); 11] = [
        ("vps", vps::measure),
        ("tunnel", tunnel::measure),
        ("start_up", start_up::measure),
        ("api", api::measure),
        ("host", host::measure),
        ("task", task::measure),
        ("submit", task::submits),
        ("container", task::containers),
        ("output", output::measure),
        ("environment", environment::measure),
        ("memory", memory::measure),
    ];
    let mut figures = Vec::new();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            eprintln!("bench: {name} …");
            let measured = measure();
            // Seen at once: the whole takes minutes.
            eprintln!("{}", figure::table(&measured));
            figures.extend(measured);
        }
    }
    println!("{}", figure::table(&figures));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    std::fs::write(&path, figures.serialize_json()).expect("target exists: this program is in it");
    println!("written: {}", path.display());
}
