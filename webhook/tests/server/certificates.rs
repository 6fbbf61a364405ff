//! The keeper of the certificates: who makes the authority, and when a replica is ready.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leader_certs::{
    authority::Authority,
    bundle::ServiceName,
    keeper::{Keeper, Settings, State},
    resolver::Resolver,
    secret,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::fake_api::FakeApi;

const SECRET: &str = "/api/v1/namespaces/leader-system/secrets/leader-webhook-ca";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/leader-webhook";

struct Replica {
    resolver: Arc<Resolver>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(api: &FakeApi) -> Self {
        let settings = Settings {
            service: ServiceName { namespace: "leader-system".to_owned(), name: "leader-webhook".to_owned() },
            secret: "leader-webhook-ca".to_owned(),
            configuration: "leader-webhook".to_owned(),
        };
        let (keeper, resolver, state) = Keeper::new(api.client(), settings, Timestamp::now()).unwrap();
        Self { resolver, state, task: tokio::spawn(keeper.run()) }
    }

    async fn until(&mut self, wanted: impl FnMut(&State) -> bool) -> State {
        let wait = self.state.wait_for(wanted);
        let state = tokio::time::timeout(Duration::from_secs(20), wait).await.expect("not within 20 s").unwrap();
        state.clone()
    }

    async fn until_trusted(&mut self) {
        self.until(|state| matches!(state, State::Trusted { .. })).await;
    }

    /// Whether a client that trusts the configuration's bundle accepts what this replica shows.
    fn is_accepted(&self, api: &FakeApi) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(bundle(api).as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from("leader-webhook.leader-system.svc").unwrap();
        verifier.verify_server_cert(&self.resolver.current().cert[0], &[], &name, &[], UnixTime::now()).is_ok()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn installed() -> FakeApi {
    let api = FakeApi::default();
    api.put(CONFIGURATION, configuration(None));
    api
}

fn configuration(bundle: Option<&str>) -> Value {
    json!({ "metadata": { "name": "leader-webhook" }, "webhooks": [{
        "name": "inject.leader.io", "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1"],
        "clientConfig": { "service": { "namespace": "leader-system", "name": "leader-webhook" }, "caBundle": bundle },
    }] })
}

fn bundle(api: &FakeApi) -> String {
    let configuration = api.get(CONFIGURATION).unwrap();
    let bytes: k8s_openapi::ByteString =
        serde_json::from_value(configuration["webhooks"][0]["clientConfig"]["caBundle"].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

#[tokio::test]
async fn replicas_that_start_at_the_same_time_agree() {
    let api = installed();
    let mut replicas: Vec<Replica> = (0..8).map(|_| Replica::start(&api)).collect();
    for replica in &mut replicas {
        replica.until_trusted().await;
    }
    for replica in &replicas {
        assert!(replica.is_accepted(&api));
    }
    let created = api.writes().iter().filter(|write| write.starts_with("POST")).count();
    assert_eq!(created, 1, "{:?}", api.writes());
}

#[tokio::test]
async fn a_restart_keeps_the_authority() {
    let api = installed();
    let mut first = Replica::start(&api);
    first.until_trusted().await;
    let (secret, writes) = (api.get(SECRET), api.writes().len());
    let mut second = Replica::start(&api);
    second.until_trusted().await;
    assert_eq!((api.get(SECRET), api.writes().len()), (secret, writes));
    assert!(second.is_accepted(&api));
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_replaced() {
    let api = installed();
    let broken = json!({ "metadata": { "name": "leader-webhook-ca" }, "type": "kubernetes.io/tls",
        "data": { "tls.crt": "anVuaw==", "tls.key": "" } });
    api.put(SECRET, broken);
    let mut replica = Replica::start(&api);
    replica.until_trusted().await;
    assert!(replica.is_accepted(&api));
    assert_ne!(api.get(SECRET).unwrap()["data"]["tls.crt"], "anVuaw==");
}

#[tokio::test]
async fn not_ready_before_the_bundle_is_right() {
    let api = FakeApi::default();
    let mut replica = Replica::start(&api);
    let reason = |state: &State| state.ready(Timestamp::now()).unwrap_err();
    let state = replica.until(|state| reason(state).contains("does not exist")).await;
    assert!(reason(&state).contains("apply the manifests"), "{state:?}");

    let mut of_another = configuration(Some("bm90IG91cnM="));
    of_another["webhooks"][0]["clientConfig"]["service"]["name"] = json!("another");
    api.put(CONFIGURATION, of_another.clone());
    let state = replica.until(|state| reason(state).contains("no webhook that calls Service")).await;
    assert!(reason(&state).contains("leader-system/leader-webhook"), "{state:?}");
    assert_eq!(api.get(CONFIGURATION).unwrap()["webhooks"], of_another["webhooks"]);

    api.put(CONFIGURATION, configuration(Some("anVuaw==")));
    replica.until_trusted().await;
    assert!(replica.is_accepted(&api));
}

/// Two replicas whose clocks disagree would otherwise replace each other's authority for ever.
#[tokio::test]
async fn an_authority_that_begins_later_is_left_alone() {
    let api = installed();
    let mut replica = Replica::start(&api);
    replica.until_trusted().await;
    let ahead = Authority::generate(Timestamp::now() + Duration::from_hours(240)).unwrap();
    let of_another = secret::build("leader-webhook-ca", "leader-system", &ahead, None);
    api.put(SECRET, serde_json::to_value(of_another).unwrap());
    let (stored, writes) = (api.get(SECRET), api.writes());

    // The watches of this API server are silent, so another replica is the one that looks.
    let mut replica = Replica::start(&api);
    let complains = |state: &State| state.ready(Timestamp::now()).is_err_and(|reason| reason.contains("clock"));
    let state = replica.until(complains).await;
    assert!(state.ready(Timestamp::now()).unwrap_err().contains("leader-system/leader-webhook-ca"), "{state:?}");
    assert_eq!((api.get(SECRET), api.writes()), (stored, writes));
}

#[test]
fn a_certificate_is_ready_within_its_time_only() {
    let from: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
    let until: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
    let state = State::Trusted { from, until };
    assert!(state.ready(from - Duration::from_secs(1)).unwrap_err().contains("2026-11-20"));
    assert_eq!(state.ready(from), Ok(()));
    assert_eq!(state.ready(until - Duration::from_secs(1)), Ok(()));
    assert!(state.ready(until).unwrap_err().contains("2026-11-21"));
}
