//! What all operations on a node share: the doors to Docker and storage, the limits, what is held.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::executor::Owner;
use super::executor::docker::Docker;
use super::executor::process::{Abilities, abilities, group_folder};
use super::gate::Gate;
use super::holdings::Holdings;
use super::images::Images;
use super::record::Records;
use super::storage::Looks;
use crate::config::Config;
use crate::domain::node::Inventory;
use crate::domain::spec::UserId;
use crate::sys::process;

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
    looked: Mutex<Looked>,
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
    /// Who runs commands without a container that name nobody; None: this Runner's own user.
    pub runner_user: Option<UserId>,
    pub is_root: bool,
    pub own_uid: u32,
}

/// What may change while the Runner runs.
#[derive(Clone, Debug)]
struct Standing {
    inventory: Inventory,
    /// Where VPS ports are published.
    address: IpAddr,
}

/// What is looked at now and then, because a look may take long.
#[derive(Clone, Debug, Default)]
struct Looked {
    shared_data: Option<PathBuf>,
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
        runner_user: Option<UserId>,
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
                runner_user,
                is_root: process::is_root(),
                own_uid: process::user_and_group().0,
            },
            standing: Mutex::new(Standing { inventory, address }),
            looked: Mutex::default(),
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

    /// What this node can do for commands without a container.
    pub fn abilities(&self) -> Abilities {
        let Owner { cluster, node } = self.docker.owner();
        abilities(&group_folder(cluster, node))
    }

    /// The cluster's shared data, as it was when it was last looked for.
    pub fn shared_data(&self) -> Option<PathBuf> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).shared_data.clone()
    }

    /// Looks for what may hang, which takes 5 s at most.
    pub fn look(&self) {
        let shared_data = self.looks.shared_data(&self.limits.shared_dir, &self.docker.owner().cluster);
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Looked { shared_data };
    }

    /// Makes every operation that waits look whether it was cancelled.
    pub fn nudge(&self) {
        self.gate.nudge();
        self.images.nudge();
    }
}
