//! A throwaway cluster in which graphs are built, and the files that its server needs.
//!
//! Library and vectors are copied into the cluster's folder: where they come from, the server's user may not be able to
//! read them.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use postgres::Client;
use testkit::cluster::Cluster;

use crate::judge::Graph;
use crate::request::{Mode, Report, Request};
use crate::vectors::{Vector, Vectors};

const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_worker_processes", "20"),
    ("max_parallel_workers", "16"),
    ("autovacuum", "off"),
];

/// A cluster with the library loaded and a set of vectors.
pub struct Site {
    client: Client,
    cluster: Cluster,
    library: String,
    vectors_path: String,
    /// What graphs are built over, and what is asked of them.
    pub vectors: Vectors,
}

impl Site {
    /// Starts a cluster.
    ///
    /// # Errors
    ///
    /// The server does not start, or the library does not load.
    pub fn start(library: &Path, vectors: &[Vector]) -> Result<Self> {
        let cluster = Cluster::start(SETTINGS)?;
        let library = cluster.take_in(library).with_context(|| format!("cannot copy {}", library.display()))?;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytemuck::cast_slice(vectors))?;
        let vectors_path = cluster.take_in(file.path())?;
        let vectors = Vectors::open(&vectors_path)?;
        let mut client = cluster.connect("postgres")?;
        let library = library.to_string_lossy().into_owned();
        client.batch_execute(&format!(
            "CREATE FUNCTION graph_build(request text) RETURNS text AS '{library}' LANGUAGE c STRICT;
             CREATE FUNCTION graph_edges(relation oid, nodes int) RETURNS bytea AS '{library}' LANGUAGE c STRICT"
        ))?;
        let vectors_path = vectors_path.to_string_lossy().into_owned();
        Ok(Site { client, cluster, library, vectors_path, vectors })
    }

    /// A second connection, to watch.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub fn connect(&self) -> Result<Client> {
        self.cluster.connect("postgres")
    }

    /// Executes a statement in the session that builds.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn execute(&mut self, statement: &str) -> Result<()> {
        Ok(self.client.batch_execute(statement)?)
    }

    /// The server's version.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn server_version(&mut self) -> Result<String> {
        Ok(self.client.query_one("SELECT current_setting('server_version')", &[])?.get(0))
    }

    /// The time now, in UTC.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn now(&mut self) -> Result<String> {
        let now = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
        Ok(self.client.query_one(now, &[])?.get(0))
    }

    /// Builds the graph of the first `nodes` vectors. `workers` is 0 where the mode has none.
    ///
    /// # Errors
    ///
    /// The build fails, or is interrupted.
    pub fn build(&mut self, mode: Mode, nodes: u32, bytes: Option<u64>, workers: u32) -> Result<(Report, Graph)> {
        self.execute("DROP TABLE IF EXISTS nodes; CREATE UNLOGGED TABLE nodes ()")?;
        let relation: u32 = self.client.query_one("SELECT 'nodes'::regclass::oid", &[])?.get(0);
        let (library, vectors) = (self.library.clone(), self.vectors_path.clone());
        let request = Request { library, vectors, relation, nodes, mode, bytes, workers };
        let request = serde_json::to_string(&request)?;
        let row = self.client.query_one("SELECT graph_build($1)", &[&request])?;
        let report = serde_json::from_str(row.get(0))?;
        let row = self.client.query_one("SELECT graph_edges($1, $2)", &[&relation, &(nodes as i32)])?;
        let graph = Graph::read(nodes, row.get(0)).context("graph_edges gives no graph")?;
        Ok((report, graph))
    }
}
