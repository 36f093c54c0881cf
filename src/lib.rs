//! HakuRiver: one static binary that turns a handful of Linux machines into one computer.
//!
//! This file is the map of the house. Imports point down only (a test reads the `use crate::` lines):
//! `domain` ← nothing; `sys`, `api`, `config` ← domain; `net` ← api, sys; `store` ← domain, sys; `host` ← all of these;
//! `runner` ← all but store; `cli` ← domain, api, config, net, sys; `up` sees Host and Runner.

pub mod api;
pub mod cli;
pub mod config;
pub mod domain;
pub mod host;
pub mod net;
pub mod runner;
pub mod store;
pub mod sys;
