//! The keeper of the certificates: who makes the authority, what is shown meanwhile, and when a replica is ready.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leader_certs::{
    anchor::Anchor,
    authority::Authority,
    bundle::ServiceName,
    keeper::{Keeper, Settings, State},
    leaf::Leaf,
    lifetimes::Lifetimes,
    notice::{self, Notice, Tell},
    resolver::Resolver,
    rotation::Content,
    secret, trust,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::{fake_api::FakeApi, running::NAME};

pub(crate) const SECRET: &str = "/api/v1/namespaces/leader-system/secrets/leader-webhook-ca";
pub(crate) const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/leader-webhook";
const MINUTE: Duration = Duration::from_mins(1);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// What was told.
#[derive(Clone, Default)]
pub(crate) struct Notices(Arc<Mutex<Vec<Notice>>>);

impl Notices {
    pub(crate) fn tell(&self) -> Tell {
        let this = self.clone();
        Arc::new(move |notice| this.0.lock().unwrap().push(notice))
    }

    /// The notes that were told for this reason.
    pub(crate) fn notes(&self, reason: &str) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|notice| notice.reason == reason).map(|notice| notice.note.clone()).collect()
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().iter().map(|notice| notice.reason).collect()
    }
}

pub(crate) struct Replica {
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) notices: Notices,
    pub(crate) task: JoinHandle<()>,
}

impl Replica {
    fn start(api: &FakeApi) -> Self {
        Self::start_with(api, Lifetimes::default())
    }

    /// One whose certificates live so shortly that it looks every five seconds: the watches of this API server are silent.
    fn start_hasty(api: &FakeApi) -> Self {
        Self::start_with(api, Lifetimes::new(2 * MINUTE, MINUTE).unwrap())
    }

    fn start_with(api: &FakeApi, lifetimes: Lifetimes) -> Self {
        let settings = Settings {
            service: service(),
            secret: "leader-webhook-ca".to_owned(),
            configuration: "leader-webhook".to_owned(),
            lifetimes,
        };
        let notices = Notices::default();
        let (keeper, resolver, state) = Keeper::new(api.client(), settings, notices.tell()).unwrap();
        Self { resolver, state, notices, task: tokio::spawn(keeper.run()) }
    }

    pub(crate) async fn until(&mut self, wanted: impl FnMut(&State) -> bool) -> State {
        let wait = self.state.wait_for(wanted);
        let state = tokio::time::timeout(PATIENCE, wait).await.expect("not in time").unwrap();
        state.clone()
    }

    pub(crate) async fn until_trusted(&mut self) {
        self.until(|state| matches!(state, State::Trusted { .. })).await;
    }

    pub(crate) fn shown(&self) -> Anchor {
        Anchor::from_der(self.resolver.current().cert[0].clone()).unwrap()
    }

    /// Whether the API server trusts what this replica shows, in the time of that.
    fn is_trusted(&self, api: &FakeApi) -> bool {
        let time = self.shown().not_before() + Duration::from_secs(1);
        trust::check(&self.resolver.current().cert, &bundle(api), NAME, time).is_ok()
    }

    /// Whether the API server accepts what this replica shows.
    pub(crate) fn is_accepted(&self, api: &FakeApi) -> bool {
        trust::check(&self.resolver.current().cert, &bundle(api), NAME, api.now()).is_ok()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn service() -> ServiceName {
    ServiceName { namespace: "leader-system".to_owned(), name: "leader-webhook".to_owned() }
}

fn installed() -> FakeApi {
    let api = FakeApi::default();
    api.put(CONFIGURATION, configuration(None));
    api
}

pub(crate) fn configuration(bundle: Option<&str>) -> Value {
    let bundle = bundle.map(|bundle| k8s_openapi::ByteString(bundle.as_bytes().to_vec()));
    json!({ "metadata": { "name": "leader-webhook" }, "webhooks": [{
        "name": "inject.leader.io", "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1"],
        "clientConfig": { "service": { "namespace": "leader-system", "name": "leader-webhook" }, "caBundle": bundle },
    }] })
}

fn bundle(api: &FakeApi) -> Vec<Anchor> {
    let configuration = api.get(CONFIGURATION).unwrap();
    let bytes: Option<k8s_openapi::ByteString> =
        serde_json::from_value(configuration["webhooks"][0]["clientConfig"]["caBundle"].clone()).unwrap();
    Anchor::all_from_pem(&bytes.unwrap_or_default().0).unwrap()
}

/// What stands in the Secret.
fn content(api: &FakeApi) -> Option<Content> {
    let secret = serde_json::from_value(api.get(SECRET)?).unwrap();
    match secret::read(Some(&secret)) {
        secret::Found::Content { content, damage: None } => Some(content),
        found => panic!("{found:?}"),
    }
}

fn signing(api: &FakeApi) -> Option<Anchor> {
    content(api).map(|content| content.signing.anchor().clone())
}

/// Waits for what is looked at again and again, and sees each time that the API server trusts what is shown.
async fn until_with_all_trusted(api: &FakeApi, replicas: &[&Replica], what: &str, mut wanted: impl FnMut() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        for replica in replicas {
            assert!(replica.is_trusted(api), "not trusted before: {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
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
        assert!(replica.notices.reasons().is_empty(), "{:?}", replica.notices.reasons());
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
async fn a_rotation_overlaps() {
    let api = installed();
    let (mut one, mut other) = (Replica::start_hasty(&api), Replica::start_hasty(&api));
    one.until_trusted().await;
    other.until_trusted().await;
    let old = signing(&api).unwrap();
    let replicas = [&one, &other];

    // A minute and a second are half of the authority's life, and more than a leaf's.
    api.set_ahead(MINUTE / 2 + Duration::from_secs(1));
    until_with_all_trusted(&api, &replicas, "leaves are renewed", || {
        replicas.iter().all(|replica| replica.shown().not_after() > api.now() + MINUTE / 2)
    })
    .await;
    assert_eq!(signing(&api), Some(old.clone()));
    api.set_ahead(MINUTE + Duration::from_secs(1));
    until_with_all_trusted(&api, &replicas, "another one is announced", || content(&api).unwrap().next.is_some()).await;
    let new = content(&api).unwrap().next.unwrap().anchor().clone();
    until_with_all_trusted(&api, &replicas, "it is published", || bundle(&api).contains(&new)).await;
    let shows_new = |replica: &&Replica| {
        trust::check(&replica.resolver.current().cert, std::slice::from_ref(&new), NAME, api.now()).is_ok()
    };
    assert!(!replicas.iter().any(shows_new));
    until_with_all_trusted(&api, &replicas, "it signs", || signing(&api).as_ref() == Some(&new)).await;
    until_with_all_trusted(&api, &replicas, "all show it", || replicas.iter().all(shows_new)).await;
    let trusted = bundle(&api);
    assert!(trusted.len() == 2 && trusted.contains(&new) && trusted.contains(&old), "{trusted:?}");
    // Whoever comes first does it.
    let mut told = [one.notices.reasons(), other.notices.reasons()].concat();
    told.sort_unstable();
    assert_eq!(told, [notice::ANNOUNCED, notice::PROMOTED]);

    // What is retired goes when its time is over, and when all have had the time to follow.
    api.set_ahead(4 * MINUTE);
    until_with_all_trusted(&api, &replicas, "the old one goes", || !bundle(&api).contains(&old)).await;
}

#[tokio::test]
async fn a_deleted_secret_is_made_anew_beside_what_was_trusted() {
    let api = installed();
    let mut replica = Replica::start_hasty(&api);
    replica.until_trusted().await;
    let old = signing(&api).unwrap();
    api.remove(SECRET);
    until_with_all_trusted(&api, &[&replica], "a new Secret", || signing(&api).is_some()).await;
    let new = signing(&api).unwrap();
    assert_ne!(new, old);
    until_with_all_trusted(&api, &[&replica], "both are trusted", || bundle(&api).len() == 2).await;
    assert_eq!(bundle(&api), [new.clone(), old]);
    let only_new = std::slice::from_ref(&new);
    until_with_all_trusted(&api, &[&replica], "the new one is shown", || {
        trust::check(&replica.resolver.current().cert, only_new, NAME, api.now()).is_ok()
    })
    .await;
    let told = replica.notices.notes(notice::MISSING);
    assert!(told[0].contains("Secret leader-system/leader-webhook-ca was deleted"), "{told:?}");
    assert!(told[0].contains("stays trusted until"), "{told:?}");
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
    let told = replica.notices.notes(notice::UNUSABLE);
    assert!(told[0].contains("tls.crt"), "{told:?}");
}

#[tokio::test]
async fn a_bundle_that_somebody_empties_is_put_right() {
    let api = installed();
    let mut replica = Replica::start_hasty(&api);
    replica.until_trusted().await;
    let before = bundle(&api);
    for broken in [None, Some(""), Some("junk")] {
        api.put(CONFIGURATION, configuration(broken));
        let started = Instant::now();
        while bundle(&api) != before {
            assert!(started.elapsed() < PATIENCE, "{broken:?} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        replica.until_trusted().await;
        assert!(replica.is_accepted(&api));
    }
    let told = replica.notices.notes(notice::REPAIRED);
    assert!(!told.is_empty() && told[0].contains("changed by somebody else"), "{told:?}");
}

#[tokio::test]
async fn not_ready_before_the_bundle_is_right() {
    let api = FakeApi::default();
    let mut replica = Replica::start(&api);
    let reason = |state: &State| state.ready().unwrap_err();
    let state = replica.until(|state| reason(state).contains("does not exist")).await;
    assert!(reason(&state).contains("apply the manifests"), "{state:?}");

    let mut of_another = configuration(Some("not ours"));
    of_another["webhooks"][0]["clientConfig"]["service"]["name"] = json!("another");
    api.put(CONFIGURATION, of_another.clone());
    let state = replica.until(|state| reason(state).contains("no webhook that calls Service")).await;
    assert!(reason(&state).contains("leader-system/leader-webhook"), "{state:?}");
    assert_eq!(api.get(CONFIGURATION).unwrap()["webhooks"], of_another["webhooks"]);

    api.put(CONFIGURATION, configuration(Some("junk")));
    replica.until_trusted().await;
    assert!(replica.is_accepted(&api));
}

/// The API server judges certificates by its clock, so that whose else is wrong is no matter.
#[tokio::test]
async fn the_clock_of_the_api_server_counts() {
    let api = installed();
    let years = Duration::from_hours(24 * 365 * 3);
    api.set_ahead(years);
    let mut replica = Replica::start(&api);
    replica.until_trusted().await;
    assert!(replica.is_accepted(&api));
    assert!(replica.shown().not_before() > Timestamp::now());

    // What was made by a clock that was ahead cannot be used until then.
    api.set_ahead(Duration::ZERO);
    let mut replica = Replica::start(&api);
    replica.until_trusted().await;
    assert!(replica.is_accepted(&api));
    let told = replica.notices.notes(notice::UNUSABLE);
    assert!(told[0].contains("the API server's clock says"), "{told:?}");
}

#[tokio::test]
async fn versions_before_this_one_are_understood() {
    let api = installed();
    let authority = Authority::generate(Timestamp::now()).unwrap();
    let data = |text: String| json!(k8s_openapi::ByteString(text.into_bytes()));
    let secret = json!({ "metadata": { "name": "leader-webhook-ca" }, "type": "kubernetes.io/tls",
        "data": { "tls.crt": data(authority.certificate()), "tls.key": data(authority.key()) } });
    api.put(SECRET, secret);
    api.put(CONFIGURATION, configuration(Some(&authority.certificate())));
    let mut replica = Replica::start(&api);
    replica.until_trusted().await;
    assert!(api.writes().is_empty(), "{:?}", api.writes());
    let names = service().dns_names();
    let leaf = Leaf::issue(&authority, &names, Timestamp::now()).unwrap();
    assert_eq!(bundle(&api), [leaf.authority]);
}
