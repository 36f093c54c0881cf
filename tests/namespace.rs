//! A network of its own on this machine, with a line to the machine's that can be taken down.

use std::fs;
use std::process::Command;

use crate::env::{Cluster, SOON};
use crate::program;

/// A network namespace with a line to the machine's own, for as long as this lives.
pub struct Namespace {
    pub name: String,
    /// The machine's end of the line.
    link: String,
    third: u32,
}

impl Namespace {
    pub fn new(cluster: &Cluster) -> Self {
        let number: u32 = cluster.tag.rsplit('-').next().unwrap().parse().unwrap();
        let short = format!("{}x{number}", std::process::id() % 100_000);
        let space = Self {
            name: format!("hrt{short}"),
            link: format!("hrl{short}"),
            third: (std::process::id() + number) % 250,
        };
        let Self { name, link, third } = &space;
        let far = format!("hrf{short}");
        ip(&["netns", "add", name]);
        ip(&["link", "add", link, "type", "veth", "peer", "name", &far]);
        ip(&["link", "set", &far, "netns", name]);
        ip(&["address", "add", &format!("10.214.{third}.1/30"), "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", name, "address", "add", &format!("10.214.{third}.2/30"), "dev", &far]);
        ip(&["-n", name, "link", "set", &far, "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        space
    }

    /// Lets the Host, which is not started yet, be reached from such a network too.
    pub fn open_host(cluster: &Cluster) {
        let path = cluster.config("config");
        let text = fs::read_to_string(&path).unwrap();
        let listen = "[network]\nhost_bind_ip = \"0.0.0.0\"\nhost_reachable_address = \"127.0.0.1\"\n";
        fs::write(&path, text.replace("[network]\n", listen)).unwrap();
    }

    /// The text of the Runner's file for a Runner in here.
    pub fn runner_config(&self, cluster: &Cluster, short: &str) -> String {
        cluster.write_runner_config(short);
        let text = fs::read_to_string(cluster.config(short)).unwrap();
        let host = format!("[network]\nhost_reachable_address = \"10.214.{}.1\"\n", self.third);
        text.replace("[network]\n", &host)
    }

    /// Nothing comes through, and nobody is told.
    pub fn line(&self, state: &str) {
        ip(&["link", "set", &self.link, state]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for args in [["link", "delete", &self.link], ["netns", "delete", &self.name]] {
            let _ = Command::new("ip").args(args).output();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args), SOON).ok();
}
