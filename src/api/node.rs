//! What Runner and Host say to each other. Every call comes from the Runner, with the node token.
//!
//! Two full snapshots, level-triggered: whatever is lost, repeated, late or reordered does no harm.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use nanoserde::{DeJson, SerJson};

use super::public::{GpuRow, NumaRow};

/// `POST /register`
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Register {
    pub hostname: String,
    /// Random for each start of a Runner.
    pub instance: String,
    pub machine_id: String,
    pub boot_id: String,
    pub version: String,
    /// Where the Host reaches this node's VPS ports; None = the address that the call comes from.
    pub address: Option<String>,
    pub inventory: InventoryWire,
}

/// The node's hardware.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct InventoryWire {
    /// Kernel list form, `0-3,8`.
    pub cpus: String,
    pub memory_bytes: u64,
    /// Hardware threads of a core together, each in list form.
    pub siblings: Vec<String>,
    pub numa: Vec<NumaRow>,
    pub gpus: Vec<GpuWire>,
}

/// One GPU of the inventory.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct GpuWire {
    pub id: u32,
    pub uuid: String,
    pub numa: Option<u32>,
}

/// The answer to `POST /register`.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct Registered {
    pub session: String,
    pub cluster_id: String,
    /// Random for each start of the Host.
    pub host_epoch: String,
    /// The address under which the Host will dial this node: VPS ports are published on it.
    pub address: String,
    /// It takes an inventory in several calls (see [`Observed::told`]); an older Host does not know of that.
    #[nserde(default)]
    pub takes_parts: bool,
    /// It knows of what it was restored from, and so what to make of a task that is `unbegun`. (A Host of an earlier version does not.)
    #[nserde(default)]
    pub takes_unbegun: bool,
}

/// `PUT /heartbeat/{hostname}`
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Heartbeat {
    pub session: String,
    pub usage: Usage,
    pub gpu_info: Vec<GpuRow>,
    pub conditions: ConditionsWire,
    /// GPUs of the inventory that the driver no longer names: they are given to nobody.
    #[nserde(default)]
    pub gpus_gone: Vec<u32>,
    /// The environments whose image is here, each in the version that was used last, and those that are on their way.
    #[nserde(default)]
    pub environments: Vec<NodeEnvironment>,
}

/// A version of an environment on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, DeJson, SerJson)]
pub struct NodeEnvironment {
    pub name: String,
    /// The time in its archive's name, in seconds since 1970.
    pub version: u64,
    /// `ready` or `loading`
    pub state: String,
}

/// The node's load.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Usage {
    /// 0 to 100 over all CPUs since the last heartbeat.
    pub cpu_percent: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    /// Degrees Celsius over the CPU's sensors.
    pub avg_temp: Option<f64>,
    pub max_temp: Option<f64>,
}

/// What the node can do now.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct ConditionsWire {
    pub docker: bool,
    pub systemd: bool,
    pub memory_limit: bool,
    pub freezer: bool,
}

/// The answer to `PUT /heartbeat/{hostname}`.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct HeartbeatAnswer {
    pub host_epoch: String,
}

/// `PUT /runner/{hostname}/observed`
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct Observed {
    pub session: String,
    /// The whole inventory of tasks, not only what changed.
    pub complete: bool,
    pub tasks: Vec<ObservedTask>,
    /// With `complete`: the ids of those of which the calls just before have told. An inventory that is too long for one call comes
    /// in several, of which the last one is `complete`.
    #[nserde(default)]
    pub told: Vec<String>,
    /// With `complete`: the `host_epoch` that the node had heard when it began that inventory. (A Runner of an earlier version does not
    /// say.)
    #[nserde(default)]
    pub epoch: String,
    /// Little output that goes with the report of a task's end (what is more goes by `PUT /runner/{hostname}/output`).
    #[nserde(default)]
    pub outputs: Vec<OutputChunk>,
}

/// A piece of what a task wrote.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct OutputChunk {
    pub task_id: String,
    pub attempt: u32,
    /// `stdout` or `stderr`
    pub stream: String,
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// The bytes, base64.
    pub data: String,
}

/// [`OutputHave::have`] where the Host wants nothing of that stream, however much there is: the task is another node's, or it
/// knows a newer attempt at it. (That of a task that it does not know is refused: a database that knows it may be put back.)
pub const OUTPUT_NOT_WANTED: u64 = i64::MAX as u64;

/// How much of a stream the Host has.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct OutputHave {
    pub task_id: String,
    pub attempt: u32,
    /// `stdout` or `stderr`
    pub stream: String,
    /// Bytes from the beginning, without a gap; or [`OUTPUT_NOT_WANTED`].
    pub have: u64,
}

/// One task as the node sees it.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct ObservedTask {
    pub task_id: String,
    pub attempt: u32,
    pub rev: u64,
    /// `starting`, `running`, `paused`, `completed`, `failed`, `killed`, `killed_oom`, `gone`, `unknown`
    pub state: String,
    /// Why it failed, as one text for the user.
    pub reason: Option<String>,
    pub exit_code: Option<i32>,
    pub exit_signal: Option<i32>,
    pub ssh_port: Option<u16>,
    /// None: nothing new is known of them.
    pub host_keys: Option<Vec<String>>,
    /// RFC 3339.
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    /// What it is doing while `starting`: "loading image (43%)".
    pub progress: Option<String>,
    /// How much it wrote in all, in bytes; only with its end, and null where that is not known.
    pub stdout_bytes: Option<u64>,
    pub stderr_bytes: Option<u64>,
    /// The systemd scope it runs in.
    pub unit: Option<String>,
    /// It has ended, and its node has nothing of it but this: no container, and nothing that it wrote.
    #[nserde(default)]
    pub nothing_left: bool,
}

/// What the Host has stored of an observed snapshot.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct ObservedAnswer {
    pub acknowledged: Vec<Acknowledged>,
    /// One for each stream of which a chunk came; none where the Host cannot say now how much it has.
    #[nserde(default)]
    pub outputs: Vec<OutputHave>,
    pub host_epoch: String,
}

/// One receipt: the Host has stored this; or has had a later one, and `rev` is that one's: what is to be heard now has to be later
/// still.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct Acknowledged {
    pub task_id: String,
    pub attempt: u32,
    pub rev: u64,
}

/// The answer to `GET /runner/{hostname}/desired?session=&version=V`: everything that this node should have. Asked with
/// `&changes=1`, it may be what is new since version V alone; with `&parts=1`, the first part of a list that is long.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct DesiredAnswer {
    /// Opaque; holds the host_epoch. To be sent back with the next poll.
    pub version: String,
    pub host_epoch: String,
    /// Null: `tasks` is the whole list. Else the version to which `tasks` and `removed` are the difference.
    pub base: Option<String>,
    /// With a base: those that are new or have changed.
    pub tasks: Vec<DesiredTask>,
    /// Those that stand in the list no longer.
    #[nserde(default)]
    pub removed: Vec<String>,
    /// Null: there is no more. Else the list goes on: this is as far as the task of this id, in the order of ids. The next poll
    /// names it, `&through=ID`, and is answered with the rest, and with what is new since in what came before.
    #[nserde(default)]
    pub through: Option<String>,
    /// All shells that users wait for: the node is to open a WebSocket `GET /runner/{hostname}/shell/{id}?session=` for each.
    #[nserde(default)]
    pub shells: Vec<ShellOrder>,
}

/// A shell in a task's container that a user waits for.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct ShellOrder {
    /// Random; each is opened once.
    pub id: String,
    pub task_id: String,
    pub attempt: u32,
    /// `vps` or `command`
    pub kind: String,
    /// The user's terminal.
    pub rows: u16,
    pub cols: u16,
}

/// One task that the node should have.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct DesiredTask {
    pub task_id: String,
    pub attempt: u32,
    /// `run`, `pause`, `stop`; or [`RETURN`]
    pub want: String,
    /// It was seen on this node: where it is not there any more, it is reported as `gone`, and not started again. That it becomes so
    /// is no change of the list: who follows the list has the task, and knows.
    #[nserde(default)]
    pub seen: bool,
    /// It is not to be started yet: what is there is to be told first.
    #[nserde(default)]
    pub no_start: bool,
    pub spec: OrderSpec,
}

/// What is wanted of a task that is to be given back, unless it was started: it is reported as `returned` then.
pub const RETURN: &str = "return";

/// All that a node needs to know to start a task.
#[derive(Clone, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct OrderSpec {
    /// It is started when there is room for it, in the order of ids among its like, and not refused before.
    #[nserde(default)]
    pub in_line: bool,
    /// `vps` or `command`
    pub kind: String,
    /// VPS: one `authorized_keys` line each.
    pub keys: Vec<String>,
    /// Command: program and arguments.
    pub argv: Vec<String>,
    pub env: Vec<EnvPair>,
    pub cores: u32,
    pub memory_bytes: Option<u64>,
    pub numa: Option<u32>,
    pub gpus: Vec<u32>,
    /// The environment; None = straight on the node.
    pub container: Option<String>,
    pub privileged: bool,
    /// `HOST:CONTAINER:ro|rw`
    pub mounts: Vec<String>,
    pub time_limit_seconds: Option<u64>,
    pub workdir: Option<String>,
    /// `UID[:GID]`
    pub user: Option<String>,
}

/// One environment variable.
#[derive(Clone, Default, DeJson, SerJson)]
pub struct EnvPair {
    pub name: String,
    pub value: String,
}

impl std::fmt::Debug for OrderSpec {
    /// Without the environment: it often holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrderSpec")
            .field("kind", &self.kind)
            .field("container", &self.container)
            .field("cores", &self.cores)
            .finish_non_exhaustive()
    }
}
