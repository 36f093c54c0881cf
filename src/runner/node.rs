//! What all operations on a node share: the doors to Docker and storage, the limits, what is held.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::executor::Owner;
use super::executor::docker::Docker;
use super::gate::Gate;
use super::holdings::Holdings;
use super::images::Images;
use super::record::Records;
use super::storage::Looks;
use crate::config::Config;
use crate::domain::node::Inventory;

/// This node.
pub struct Node {
    pub docker: Arc<Docker>,
    pub gate: Gate,
    pub images: Arc<Images>,
    pub holdings: Holdings,
    pub records: Records,
    pub looks: Looks,
    pub boot_id: String,
    /// The copy of our own binary that new containers get.
    pub binary: PathBuf,
    pub limits: Limits,
    standing: Mutex<Standing>,
}

/// What the configuration says about tasks on this node.
#[derive(Clone, Debug)]
pub struct Limits {
    pub shared_dir: PathBuf,
    pub local_temp_dir: PathBuf,
    pub vps_ports: (u16, u16),
    pub start_timeout: Duration,
    pub install_timeout: Duration,
    pub allow_privileged: bool,
    pub allowed_mounts: Vec<PathBuf>,
}

/// What may change while the Runner runs.
#[derive(Clone, Debug)]
struct Standing {
    inventory: Inventory,
    /// Where VPS ports are published.
    address: IpAddr,
}

impl Node {
    /// Puts it together.
    pub fn new(
        config: &Config,
        owner: Owner,
        records: Records,
        boot_id: String,
        binary: PathBuf,
        inventory: Inventory,
        address: IpAddr,
    ) -> Self {
        let docker = Arc::new(Docker::new(&config.docker.command, owner));
        let looks = Looks::default();
        Self {
            images: Arc::new(Images::new(Arc::clone(&docker), config.docker.container_dir.clone(), looks.clone())),
            docker,
            gate: Gate::new(),
            holdings: Holdings::default(),
            records,
            looks,
            boot_id,
            binary,
            limits: Limits {
                shared_dir: config.paths.shared_dir.clone(),
                local_temp_dir: config.paths.local_temp_dir.clone(),
                vps_ports: config.network.vps_ports,
                start_timeout: config.docker.start_timeout,
                install_timeout: config.docker.install_timeout,
                allow_privileged: config.docker.allow_privileged,
                allowed_mounts: config.docker.allowed_mounts.clone(),
            },
            standing: Mutex::new(Standing { inventory, address }),
        }
    }

    /// The node was registered anew.
    pub fn registered(&self, inventory: Inventory, address: IpAddr) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Standing { inventory, address };
    }

    /// The hardware, as it was told to the Host.
    pub fn inventory(&self) -> Inventory {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).inventory.clone()
    }

    /// Where VPS ports are published.
    pub fn address(&self) -> IpAddr {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).address
    }

    /// Makes every operation that waits look whether it was cancelled.
    pub fn nudge(&self) {
        self.gate.nudge();
        self.images.nudge();
    }
}
