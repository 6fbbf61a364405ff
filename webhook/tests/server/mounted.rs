//! A certificate in files that somebody else keeps, and a bundle that somebody else writes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leader_certs::{
    anchor::Anchor,
    files::{Files, Settings},
    keeper::State,
    notice,
    resolver::Resolver,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    certificates::{CONFIGURATION, Notices, configuration, service},
    fake_api::FakeApi,
    running::NAME,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// An authority of somebody else's.
fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of it, with the moment in which it ends, and its key.
fn pair(authority: &Issuer, until: Timestamp) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let seconds = u64::try_from(until.as_second()).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn tomorrow() -> Timestamp {
    Timestamp::now() + Duration::from_hours(24)
}

struct Replica {
    folder: TempDir,
    resolver: Arc<Resolver>,
    state: watch::Receiver<State>,
    notices: Notices,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(api: &FakeApi, write: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let file = |name: &str| -> PathBuf { folder.path().join(name) };
        let settings = Settings {
            certificate: file("tls.crt"),
            key: file("tls.key"),
            service: service(),
            configuration: "leader-webhook".to_owned(),
        };
        let notices = Notices::default();
        let (files, resolver, state) = Files::new(api.client(), settings, notices.tell()).unwrap();
        Self { resolver, state, notices, task: tokio::spawn(files.run()), folder }
    }

    /// One that shows `pair`, as the bundle of `authority` lets it.
    async fn showing(api: &FakeApi, authority: &Issuer, pair: &(String, String)) -> Self {
        api.put(CONFIGURATION, configuration(Some(&authority.pem())));
        let mut replica = Self::start(api, |folder| write(folder, pair));
        replica.until(|state| state.ready().is_ok()).await;
        assert_eq!(replica.shown(), certificate(pair));
        replica
    }

    fn write(&self, pair: &(String, String)) {
        write(self.folder.path(), pair);
    }

    async fn until(&mut self, wanted: impl FnMut(&State) -> bool) -> State {
        let wait = self.state.wait_for(wanted);
        tokio::time::timeout(PATIENCE, wait).await.expect("not in time").unwrap().clone()
    }

    fn shown(&self) -> Anchor {
        Anchor::from_der(self.resolver.current().cert[0].clone()).unwrap()
    }

    async fn until_shown(&self, pair: &(String, String)) {
        until("it is shown", || self.shown() == certificate(pair)).await;
    }

    async fn until_told(&self, reason: &str, part: &str) {
        until("it is told", || self.notices.notes(reason).iter().any(|note| note.contains(part))).await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn write(folder: &Path, (certificate, key): &(String, String)) {
    fs::write(folder.join("tls.crt"), certificate).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
}

fn certificate(pair: &(String, String)) -> Anchor {
    Anchor::from_pem(&pair.0).unwrap()
}

async fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn ready_only_while_the_bundle_covers_it() {
    let (api, authority, other) = (FakeApi::default(), authority("one"), authority("two"));
    let mut replica = Replica::start(&api, |folder| write(folder, &pair(&authority, tomorrow())));
    replica.until(|state| state.ready().is_err_and(|reason| reason.contains("no MutatingWebhookConfiguration"))).await;
    api.put(CONFIGURATION, configuration(None));
    replica.until(|state| state.ready().is_err_and(|reason| reason.contains("the bundle is empty"))).await;
    api.put(CONFIGURATION, configuration(Some(&other.pem())));
    replica.until(|state| state.ready().is_err_and(|reason| reason.contains("has signed it"))).await;
    api.put(CONFIGURATION, configuration(Some(&authority.pem())));
    replica.until(|state| state.ready().is_ok()).await;
    // The bundle is not its own to write.
    assert!(api.writes().is_empty(), "{:?}", api.writes());
}

#[tokio::test]
async fn a_certificate_that_ends_is_not_ready() {
    let (api, authority) = (FakeApi::default(), authority("one"));
    api.put(CONFIGURATION, configuration(Some(&authority.pem())));
    api.set_ahead(Duration::from_hours(48));
    let mut replica = Replica::start(&api, |folder| write(folder, &pair(&authority, tomorrow())));
    replica.until(|state| state.ready().is_err_and(|reason| reason.contains("its time is over"))).await;
    api.set_ahead(Duration::ZERO);
    replica.until(|state| state.ready().is_ok()).await;
}

#[tokio::test]
async fn a_new_pair_is_shown_and_a_bad_one_is_told_and_not_shown() {
    let (api, authority) = (FakeApi::default(), authority("one"));
    let first = pair(&authority, tomorrow());
    let replica = Replica::showing(&api, &authority, &first).await;
    let second = pair(&authority, tomorrow());
    replica.write(&second);
    replica.until_shown(&second).await;
    replica.until_told(notice::FILES_RELOADED, "a new certificate is shown").await;

    replica.write(&(first.0.clone(), second.1.clone()));
    replica.until_told(notice::FILES_UNUSABLE, "is shown on").await;
    assert_eq!(replica.shown(), certificate(&second));
    fs::remove_file(replica.folder.path().join("tls.key")).unwrap();
    replica.until_told(notice::FILES_UNUSABLE, "No such file").await;
    assert_eq!(replica.shown(), certificate(&second));
    assert!(replica.state.borrow().ready().is_ok());
    // What is wrong is told once.
    assert_eq!(replica.notices.notes(notice::FILES_UNUSABLE).len(), 2);

    replica.write(&first);
    replica.until_shown(&first).await;
}

#[tokio::test]
async fn without_a_pair_it_says_what_is_missing() {
    let api = FakeApi::default();
    let mut replica = Replica::start(&api, |_| ());
    let state = replica.until(|state| state.ready().is_err_and(|reason| reason.contains("No such file"))).await;
    assert!(state.ready().unwrap_err().contains("tls.crt"), "{state:?}");
}

#[tokio::test]
async fn a_new_authority_may_come_to_the_files_or_to_the_bundle_first() {
    let (api, old, new) = (FakeApi::default(), authority("old"), authority("new"));
    let first = pair(&old, tomorrow());
    let replica = Replica::showing(&api, &old, &first).await;
    let second = pair(&new, tomorrow());
    replica.write(&second);
    // As long as only the old one is trusted, that is what is shown.
    replica.until_told(notice::FILES_WAITING, "covers only the one before").await;
    assert_eq!(replica.shown(), certificate(&first));
    assert!(replica.state.borrow().ready().is_ok());
    api.put(CONFIGURATION, configuration(Some(&(old.pem() + &new.pem()))));
    replica.until_shown(&second).await;
    assert!(replica.notices.notes(notice::FILES_UNUSABLE).is_empty());
}
