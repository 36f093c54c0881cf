//! Nodes in the database.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use nanoserde::{DeJson, SerJson};
use rusqlite::{Connection, Row, params};

use crate::domain::ids::{GpuId, NodeName, NumaId};
use crate::domain::node::{Gpu, Inventory, NumaNode};

use super::{Store, StoreFault, int, natural};

/// All that is kept of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRecord {
    pub name: NodeName,
    /// Where the Host dials its VPS ports.
    pub address: String,
    pub machine_id: String,
    pub boot_id: String,
    /// Random for each start of its Runner.
    pub instance: String,
    /// What its calls carry; issued by the Host.
    pub session: String,
    /// Of the binary there.
    pub version: String,
    pub inventory: Inventory,
    /// This session has sent a complete inventory of its tasks.
    pub inventoried: bool,
    pub draining: bool,
    /// It was silent for longer than the time-out, and has not been heard since.
    pub silent: bool,
    /// Milliseconds since 1970.
    pub registered_ms: u64,
}

/// What the `inventory` column holds.
#[derive(Default, DeJson, SerJson)]
#[nserde(default)]
struct InventoryRow {
    cpus: String,
    memory: u64,
    numa: Vec<NumaRow>,
    gpus: Vec<GpuRow>,
    siblings: Vec<String>,
}

#[derive(Default, DeJson, SerJson)]
struct NumaRow {
    id: u32,
    cpus: String,
    memory: u64,
}

#[derive(Default, DeJson, SerJson)]
struct GpuRow {
    id: u32,
    uuid: String,
    numa: Option<u32>,
}

impl Store {
    /// Every node, by name.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, StoreFault> {
        all(self.conn())?.into_iter().map(|node| node.map_err(|why| self.damaged(&why))).collect()
    }

    /// Adds a node, or replaces what is kept of it.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn put_node(&mut self, node: &NodeRecord) -> Result<(), StoreFault> {
        self.write(
            "INSERT OR REPLACE INTO nodes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                node.name.as_str(),
                node.address,
                node.machine_id,
                node.boot_id,
                node.instance,
                node.session,
                node.version,
                encode(&node.inventory),
                node.inventoried,
                node.draining,
                node.silent,
                int(node.registered_ms),
            ],
        )
    }

    /// Forgets a node.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn delete_node(&mut self, name: &NodeName) -> Result<(), StoreFault> {
        self.write("DELETE FROM nodes WHERE name = ?1", params![name.as_str()])
    }
}

/// Every node, by name. Rows that cannot be read are told as such.
pub(super) fn all(conn: &Connection) -> Result<Vec<Result<NodeRecord, String>>, StoreFault> {
    let fault = |error: rusqlite::Error| StoreFault::of("read the database", &error);
    let mut statement = conn
        .prepare_cached(
            "SELECT name, address, machine_id, boot_id, instance, session, version, \
             iif(json_valid(inventory), inventory, NULL), inventoried, draining, silent, registered_ms FROM nodes ORDER BY name",
        )
        .map_err(fault)?;
    let rows = statement.query_map([], from_row).map_err(fault)?;
    rows.map(|row| row.map_err(fault)).collect()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Result<NodeRecord, String>> {
    let name: String = row.get(0)?;
    let inventory: Option<String> = row.get(7)?;
    let fault = |why: String| Ok(Err(format!("node {name:?} in the database cannot be read: {why}")));
    let parsed = match name.parse() {
        Ok(parsed) => parsed,
        Err(why) => return fault(format!("{why}")),
    };
    let inventory = match inventory.ok_or_else(|| "its inventory is not JSON".to_owned()).and_then(|text| decode(&text))
    {
        Ok(inventory) => inventory,
        Err(why) => return fault(why),
    };
    Ok(Ok(NodeRecord {
        name: parsed,
        address: row.get(1)?,
        machine_id: row.get(2)?,
        boot_id: row.get(3)?,
        instance: row.get(4)?,
        session: row.get(5)?,
        version: row.get(6)?,
        inventory,
        inventoried: row.get(8)?,
        draining: row.get(9)?,
        silent: row.get(10)?,
        registered_ms: natural(row.get(11)?),
    }))
}

fn encode(inventory: &Inventory) -> String {
    InventoryRow {
        cpus: inventory.cpus.to_string(),
        memory: inventory.memory,
        numa: inventory
            .numa
            .iter()
            .map(|numa| NumaRow { id: numa.id.0, cpus: numa.cpus.to_string(), memory: numa.memory })
            .collect(),
        gpus: inventory
            .gpus
            .iter()
            .map(|gpu| GpuRow { id: gpu.id.0, uuid: gpu.uuid.clone(), numa: gpu.numa.map(|numa| numa.0) })
            .collect(),
        siblings: inventory.siblings.iter().map(ToString::to_string).collect(),
    }
    .serialize_json()
}

fn decode(text: &str) -> Result<Inventory, String> {
    let row = InventoryRow::deserialize_json(text).map_err(|error| error.to_string())?;
    Ok(Inventory {
        cpus: row.cpus.parse()?,
        memory: row.memory,
        numa: row
            .numa
            .into_iter()
            .map(|numa| Ok(NumaNode { id: NumaId(numa.id), cpus: numa.cpus.parse()?, memory: numa.memory }))
            .collect::<Result<_, String>>()?,
        gpus: row
            .gpus
            .into_iter()
            .map(|gpu| Gpu { id: GpuId(gpu.id), uuid: gpu.uuid, numa: gpu.numa.map(NumaId) })
            .collect(),
        siblings: row.siblings.iter().map(|text| text.parse()).collect::<Result<_, String>>()?,
    })
}
