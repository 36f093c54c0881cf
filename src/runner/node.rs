//! What all operations on a node share: the doors to Docker and storage, the limits, what is held.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::depot::Depot;
use super::executor::Owner;
use super::executor::docker::{Docker, DockerFault};
use super::executor::process::{Abilities, abilities, group_folder};
use super::gate::Gate;
use super::holdings::Holdings;
use super::images::{Images, Sources};
use super::inventory::gpu::Watch;
use super::on_node::Account;
use super::record::{Record, Records};
use super::storage;
use super::supervise::box_file::RECALL;
use crate::config::Config;
use crate::domain::ids::{GpuId, NumaId};
use crate::domain::node::Inventory;
use crate::sys::looks::Looks;
use crate::sys::shutdown::Stop;
use crate::sys::{file, process, recall};

/// How often a call that found no Docker is made again though Docker answers others: it may just have come back.
const MOST_DOUBTS: u32 = 3;
/// How long is waited after the first of them; after each further one twice as long.
const DOUBT: Duration = Duration::from_millis(500);

/// This node.
pub struct Node {
    pub docker: Arc<Docker>,
    pub gate: Gate,
    pub images: Arc<Images>,
    pub holdings: Holdings,
    pub records: Records,
    pub looks: Looks,
    /// For what users want mounted, which may be any file system: one that is dead is to hold up nothing else.
    pub mount_looks: Looks,
    pub boot_id: String,
    /// The copy of our own binary that new containers get.
    pub binary: PathBuf,
    pub limits: Limits,
    gpus: Watch,
    standing: Mutex<Standing>,
    looked: Mutex<Looked>,
}

/// What is known of this machine before the cluster is.
pub struct Machine {
    pub boot_id: String,
    /// The copy of our own binary.
    pub binary: PathBuf,
    /// See [`Limits::runner_user`].
    pub runner_user: Option<Account>,
    pub gpus: Watch,
    /// Where this Runner keeps what it has to know of environments.
    pub environments: PathBuf,
    /// Where environments come from that are not in the shared directory.
    pub depot: Arc<dyn Depot>,
    /// Set when the Runner ends.
    pub ending: Stop,
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
    /// Who runs commands without a container, and nobody else does; None: this Runner's own user, or whom the command names.
    pub runner_user: Option<Account>,
    pub is_root: bool,
    pub own_uid: u32,
}

/// What may change while the Runner runs.
#[derive(Clone, Debug)]
struct Standing {
    inventory: Arc<Inventory>,
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
        machine: Machine,
        inventory: Inventory,
        address: IpAddr,
    ) -> Self {
        let Machine { boot_id, binary, runner_user, gpus, environments, depot, ending } = machine;
        let looks = Looks::default();
        let sources = Sources::new(
            config.docker.container_dir.clone(),
            config.paths.shared_dir.clone(),
            owner.cluster.clone(),
            looks.clone(),
            depot,
        );
        let docker = Arc::new(Docker::new(&config.docker.command, owner));
        Self {
            images: Arc::new(Images::new(Arc::clone(&docker), sources, &environments, ending)),
            docker,
            gate: Gate::new(),
            holdings: Holdings::default(),
            records,
            looks,
            mount_looks: Looks::default(),
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
            gpus,
            standing: Mutex::new(Standing { inventory: Arc::new(inventory), address }),
            looked: Mutex::default(),
        }
    }

    /// The node was registered anew.
    pub fn registered(&self, inventory: Inventory, address: IpAddr) {
        let standing = Standing { inventory: Arc::new(inventory), address };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// The hardware, as it was told to the Host.
    pub fn inventory(&self) -> Arc<Inventory> {
        Arc::clone(&self.standing.lock().unwrap_or_else(PoisonError::into_inner).inventory)
    }

    /// The GPUs of a task: what they are called wherever they are, and the NUMA nodes that they are near to.
    ///
    /// # Errors
    /// One sentence: this node has no such GPU, or has lost it.
    pub fn gpus(&self, inventory: &Inventory, ids: &[GpuId]) -> Result<(Vec<String>, Vec<NumaId>), String> {
        let gone = if ids.is_empty() { Vec::new() } else { self.gpus.gone() };
        gpus_of(inventory, &gone, ids)
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

    /// Makes what the container of a record that was lost mounts and the loss has taken with it: Docker starts none whose mounts
    /// are not there. What the folders held, a VPS has kept itself.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn remake_mounts(&self, record: &Record) -> io::Result<()> {
        let folder = self.records.folder(record.task, record.attempt);
        file::make_dir(&folder.join("box"), 0o700)?;
        file::make_dir(&folder.join("out"), 0o700)?;
        let pipe = folder.join("box").join(RECALL);
        recall::make(&pipe)
            .map_err(|fault| io::Error::new(fault.kind(), format!("cannot make {}: {fault}", pipe.display())))?;
        let binary = Path::new(&record.binary);
        // Of another version, most likely; any version can do this.
        if binary.parent() == self.binary.parent() && !binary.exists() {
            file::copy_program(&self.binary, binary)
                .map_err(|fault| io::Error::new(fault.kind(), format!("cannot write {}: {fault}", record.binary)))?;
        }
        Ok(())
    }

    /// A call of one task's has come to nothing because Docker does not answer, or so it seems: the daemon itself is asked, and only
    /// where that does not answer everybody waits for it. `doubts` counts how often it has answered after such a call.
    ///
    /// True: the call is to be made again. False: the daemon answers, and that call fails all the same.
    pub fn is_docker_away(&self, fault: &DockerFault, doubts: &mut u32, cancel: &Stop) -> bool {
        match self.docker.list() {
            Err(fault) => {
                *doubts = 0;
                self.gate.set(Err(fault.text));
                true
            }
            // What that call has done is not known, so it cannot be left at that.
            Ok(_) if fault.timed_out => true,
            Ok(_) => {
                *doubts += 1;
                // A daemon under load may take one call and not the next. (Who is to stop meanwhile is told so by what comes next.)
                cancel.wait(DOUBT * 2_u32.pow(*doubts - 1));
                *doubts <= MOST_DOUBTS
            }
        }
    }

    /// Looks for what may hang, which takes 5 s at most.
    pub fn look(&self) {
        let shared_data = storage::shared_data(&self.looks, &self.limits.shared_dir, &self.docker.owner().cluster);
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Looked { shared_data };
    }

    /// Makes every operation that waits look whether it was cancelled.
    pub fn nudge(&self) {
        self.gate.nudge();
        self.images.nudge();
    }
}

fn gpus_of(inventory: &Inventory, gone: &[String], ids: &[GpuId]) -> Result<(Vec<String>, Vec<NumaId>), String> {
    let mut uuids = Vec::with_capacity(ids.len());
    let mut near = Vec::new();
    for id in ids {
        let gpu = inventory.gpus.iter().find(|gpu| gpu.id == *id);
        let gpu = gpu.ok_or_else(|| format!("this node has no GPU {id} (any more)"))?;
        if gone.contains(&gpu.uuid) {
            return Err(format!(
                "GPU {id} of this node ({}) is gone: nvidia-smi does not name it any more; see 'dmesg' there, and restart \
                 the machine",
                gpu.uuid
            ));
        }
        uuids.push(gpu.uuid.clone());
        near.extend(gpu.numa);
    }
    Ok((uuids, near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::node::Gpu;

    #[test]
    fn gpus_go_by_uuid_and_one_that_is_gone_is_named() {
        let gpu = |id, numa| Gpu { id: GpuId(id), uuid: format!("GPU-{id}"), numa };
        let gpus = vec![gpu(0, Some(NumaId(1))), gpu(1, None), gpu(3, Some(NumaId(0)))];
        let inventory = Inventory { gpus, ..Inventory::default() };
        let of = |ids: &[u32], gone: &[&str]| {
            let gone: Vec<String> = gone.iter().map(|uuid| (*uuid).to_owned()).collect();
            gpus_of(&inventory, &gone, &ids.iter().map(|id| GpuId(*id)).collect::<Vec<_>>())
        };
        let both = (vec!["GPU-3".to_owned(), "GPU-0".to_owned()], vec![NumaId(0), NumaId(1)]);
        assert_eq!(of(&[3, 0], &["GPU-1"]), Ok(both));
        assert_eq!(of(&[], &["GPU-1"]), Ok((Vec::new(), Vec::new())));
        assert!(of(&[2], &[]).is_err_and(|fault| fault.contains("no GPU 2")));
        assert!(of(&[0, 1], &["GPU-1"]).is_err_and(|fault| fault.contains("GPU 1 of this node (GPU-1) is gone")));
    }
}
