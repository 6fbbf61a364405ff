//! For tests that run on the cluster: the cluster of the run, a namespace per test, waiting, and breaking things.
//!
//! ```no_run
//! use leader_tests::{kit::Namespace, wait};
//! use std::time::Duration;
//!
//! fn fail_over() -> anyhow::Result<()> {
//!     Namespace::test("fail-over", |namespace| {
//!         namespace.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")?;
//!         wait::until("the config map", Duration::from_secs(5), || namespace.get(&["configmap", "a"]))?;
//!         Ok(())
//!     })
//! }
//! ```

mod cpu_limit;
mod cut;
mod faults;
mod namespace;
mod private_registry;
mod proxy;
mod requests;
mod rival;
mod servers;
mod wall_clock;

pub use cpu_limit::{CpuLimit, LimitOf};
pub use cut::Cut;
pub use faults::{ContainerProcesses, PodProcess};
pub use namespace::Namespace;
pub use private_registry::{PASSWORD, PrivateRegistry, USER};
pub use proxy::{Answer, ApiProxy};
pub use requests::Request;
pub use rival::{Rival, RivalEvent, RivalOptions};
pub use servers::{EtcdSnapshot, PausedServer, StoppedServer};

use crate::cluster::{Cluster, Status};
use crate::progress::say;
use crate::state::ClusterName;
use anyhow::{Context, Result};
use serde_json::Value;
use std::sync::OnceLock;

impl Cluster {
    /// The cluster that all tests of this run share: the one that `NETNS` names, else the default one when it is up.
    ///
    /// `None` when there is none, after saying on standard error which test is left out; the test then returns.
    ///
    /// # Panics
    /// When `NETNS` names a cluster that is not up: tests that were meant to run must not be left out.
    pub fn for_tests() -> Option<&'static Self> {
        static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| {
            if let Ok(name) = std::env::var("NETNS") {
                let found = ClusterName::new(&name).and_then(|name| Self::find(&name));
                return Ok(found.unwrap_or_else(|error| panic!("NETNS={name}: {error:#}")));
            }
            if !rustix::process::geteuid().is_root() {
                return Err("it needs root".to_owned());
            }
            match ClusterName::new(ClusterName::DEFAULT).map(|name| Self::status(&name)) {
                Ok(Status::Up(cluster)) => Ok(cluster),
                Ok(Status::Broken(why)) => Err(format!("the cluster is broken: {why}")),
                _ => Err("no cluster is up (`cargo xtask test` brings one up)".to_owned()),
            }
        });
        match cluster {
            Ok(cluster) => Some(cluster),
            Err(why) => {
                // The test harness calls its threads by the tests' names.
                let thread = std::thread::current();
                say(format!("left out: {}: {why}", thread.name().unwrap_or("a test")));
                None
            }
        }
    }

    /// Applies a manifest with `kubectl apply`, and returns what kubectl printed.
    ///
    /// # Errors
    /// When kubectl fails; the message has what it said.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl(&["apply", "-f", "-"]).input(manifest).run()
    }

    /// Objects as JSON: `kubectl get ARGUMENTS -o json`.
    ///
    /// # Errors
    /// When kubectl fails, for instance because there is no such object.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        json(&self.kubectl(&[&["get", "-o", "json"], arguments].concat()).run()?)
    }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("kubectl did not print JSON: {text}"))
}
