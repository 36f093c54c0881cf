//! The whole system from outside: real Hosts and Runners, real Docker, one file a promise.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(unreachable_pub, reason = "no library: whatever a module shows, it shows to this crate")]

mod behind;
mod daemon;
mod env;
mod fake_node;
mod far_node;
mod floors;
mod gate;
mod http;
mod invariants;
mod line;
mod mount;
mod namespace;
mod network;
mod node_supervisor;
mod private;
mod program;
mod slow_runtime;
mod tasks;
mod tty;
mod wait;

mod auth;
mod backup;
mod bad_input;
#[cfg(feature = "fault-points")]
mod clock;
mod config;
#[cfg(feature = "fault-points")]
mod crash_lives;
mod crash_phases;
#[cfg(feature = "fault-points")]
mod crash_walk;
mod database;
mod docker_faults;
mod env_host;
mod env_layers;
mod env_whole;
mod forgotten;
mod host_alone;
mod host_output;
mod hostile;
mod image;
mod network_faults;
mod node_faults;
mod seed_page;
mod ssh;
mod ssh_faults;
mod static_binary;
mod supervisor;
mod systemd;
mod task_argv;
mod task_cli;
mod task_container;
mod task_cores;
mod task_crash;
mod task_gpu;
mod task_kill;
mod task_oom;
mod task_output;
mod task_queue;
mod task_span;
mod terminal;
mod three_runners;
mod tunnel;
mod two_runners;
mod user_faults;
mod vps_lifecycle;
mod witness;
