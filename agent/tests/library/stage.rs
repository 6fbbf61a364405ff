//! What every test needs: an election with this API server, a limit of time, and a place where things are noted in order.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use leader_agent::{clock, election::Election};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::api::{Api, NAMESPACE};

/// Nothing here takes longer on a machine that works, however busy it is. One whose timers were late by seconds acquires nothing
/// for a minute after that.
pub(crate) const LIMIT: Duration = Duration::from_mins(10);
/// A lease so long that a busy machine loses none.
pub(crate) const CALM: Duration = Duration::from_mins(1);
/// A lease for tests that wait until it has run out. It has room for timers that are late by more than a second.
pub(crate) const SHORT: Duration = Duration::from_secs(10);

/// A test with a runtime of its own.
pub(crate) fn trial<F>(name: &'static str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let in_time = runtime.block_on(async { tokio::time::timeout(LIMIT, test()).await.is_ok() });
        if in_time { Ok(()) } else { Err(format!("not within {LIMIT:?}").into()) }
    })
}

/// The address of an API server.
pub(crate) fn address(api: &Api) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    api.kubeconfig(&path);
    let config: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    config["clusters"][0]["cluster"]["server"].as_str().expect("a server").to_owned()
}

/// A candidate of the one Lease, with a lease of [`CALM`].
pub(crate) fn candidate(identity: &str, address: &str) -> Election {
    program(address).identity(identity).lease_duration(CALM)
}

/// The same without identity and duration.
pub(crate) fn program(address: &str) -> Election {
    let config = kube::Config::new(address.parse().expect("an address"));
    Election::new("billing").namespace(NAMESPACE).config(config)
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = clock::boot();
    while !condition() {
        assert!(clock::boot().saturating_sub(began) < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().expect("no test panics with it").push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn has(&self, note: &str) -> bool {
        self.all().iter().any(|noted| noted == note)
    }
}

/// Notes its end.
pub(crate) struct Ends(pub(crate) Box<dyn Fn() + Send>);

impl Drop for Ends {
    fn drop(&mut self) {
        (self.0)();
    }
}
