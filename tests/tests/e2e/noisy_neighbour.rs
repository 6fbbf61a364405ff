//! A program that floods the API server, and leaders beside it: the `FlowSchema` of `deploy/` keeps their Lease requests apart.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use leader_tests::Cluster;
use leader_tests::network::API_PORT;
use leader_tests::pki::Pki;
use leader_tests::progress::say;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::stage::{Stage, until};
use crate::writer::Writer;

/// More requests at once than the API server lets service accounts have: 245 seats of 600, and up to 121 more that others lend. Those
/// that wait fit into the flow's queues (300), so that few are sent away to come again.
const REQUESTS: usize = 600;
/// How long each holds its seat, in seconds: the longest that a webhook may take.
const HOLD: u32 = 30;
/// The lease of the leader beside it, in seconds.
const LEASE: u32 = 15;

/// The identity of the flow schema that a service account's request falls under, as the API server's answer says it. `path` is what is
/// asked for in the namespace.
fn flow_schema_of(stage: &Stage, group: &str, path: &str) -> Result<String> {
    let account = format!("--as=system:serviceaccount:{}:default", stage.namespace.name());
    let path = format!("/{group}/namespaces/{}/{path}", stage.namespace.name());
    // It may not, or there is none: the answer has the header all the same.
    let output = stage.namespace.kubectl(&["get", "--raw", &path, "-v=8", &account]).output()?;
    let said = output.stderr.to_ascii_lowercase();
    let (_, uid) = said.split_once("x-kubernetes-pf-flowschema-uid").with_context(|| format!("no header in {said}"))?;
    let uid = uid.trim_start_matches(|letter: char| !letter.is_ascii_hexdigit());
    Ok(uid.chars().take_while(|letter| letter.is_ascii_hexdigit() || *letter == '-').collect())
}

/// A figure of the API server's about flow schema and priority level; 0 where it says nothing.
fn figure(cluster: &Cluster, name: &str, flow_schema: &str, level: &str) -> Result<f64> {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"]).run()?;
    let (schema, level) = (format!("flow_schema=\"{flow_schema}\""), format!("priority_level=\"{level}\""));
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && line.contains(&schema)
            && line.contains(&level)
    });
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(values.sum())
}

/// A webhook of the test's own namespace that never answers: what is asked holds its seat and costs nobody anything.
struct Tarpit<'a> {
    cluster: &'a Cluster,
    name: String,
    _listener: TcpListener,
}

impl<'a> Tarpit<'a> {
    fn open(stage: &'a Stage) -> Result<Self> {
        let cluster = stage.namespace.cluster();
        let address = SocketAddr::from((cluster.range().node_address(), 0));
        // A socket belongs to the network that its thread is in.
        let listen = || cluster.enter_network().and_then(|()| Ok(TcpListener::bind(address)?));
        let listener = thread::scope(|scope| scope.spawn(listen).join().map_err(|_| anyhow!("a thread panicked"))?)?;
        let name = format!("tarpit-{}", stage.namespace.name());
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "tarpit.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Ignore", "timeoutSeconds": HOLD,
                "clientConfig": {"url": format!("https://{}/", listener.local_addr()?)},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace.name()}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
            }],
        });
        let tarpit = Self { cluster, name, _listener: listener };
        cluster.apply(&configuration.to_string())?;
        Ok(tarpit)
    }
}

impl Drop for Tarpit<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl(&["delete", "mutatingwebhookconfiguration", &self.name]).run() {
            say(format!("{} is still there: {error:#}", self.name));
        }
    }
}

/// A program with many requests at once; it ends when this is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Requests of the namespace's service account `noisy`, each of which creates a `ConfigMap` (dry run).
    fn begin(stage: &Stage) -> Result<Self> {
        let rules = ["--verb=create", "--resource=configmaps"];
        stage.namespace.run(&["create", "serviceaccount", "noisy"])?;
        stage.namespace.run(&[&["create", "role", "noisy"][..], &rules].concat())?;
        let account = format!("--serviceaccount={}:noisy", stage.namespace.name());
        stage.namespace.run(&["create", "rolebinding", "noisy", "--role=noisy", &account])?;
        let token = stage.namespace.run(&["create", "token", "noisy"])?.trim().to_owned();
        let cluster = stage.namespace.cluster().clone();
        let address = SocketAddr::from((cluster.range().node_address(), API_PORT));
        let path = format!("/api/v1/namespaces/{}/configmaps?dryRun=All", stage.namespace.name());
        let connector = connector(&cluster)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let flood = || -> Result<()> {
                cluster.enter_network()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    for number in 0..REQUESTS {
                        let one =
                            Source { address, connector: connector.clone(), path: path.clone(), token: token.clone() };
                        tokio::spawn(one.ask_for_ever(number));
                    }
                    while !stopped.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                });
                Ok(())
            };
            if let Err(error) = flood() {
                say(format!("the flood ended: {error:#}"));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            say("the flood panicked");
        }
    }
}

fn connector(cluster: &Cluster) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(Pki::of(cluster.state()).authority())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One connection of the flood.
struct Source {
    address: SocketAddr,
    connector: TlsConnector,
    path: String,
    token: String,
}

impl Source {
    async fn ask_for_ever(self, number: usize) {
        loop {
            let refused = match self.ask(number).await {
                Ok(status) => status == StatusCode::TOO_MANY_REQUESTS,
                Err(_) => true,
            };
            // Who is refused comes again, and not at once: the test is about seats, not about the processor.
            if refused {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }

    async fn ask(&self, number: usize) -> Result<StatusCode> {
        let stream = TcpStream::connect(self.address).await?;
        let stream = self.connector.connect(ServerName::from(self.address.ip()), stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("noise-{number}")}});
        let request = Request::post(&self.path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from(body.to_string())))?;
        let status = sender.send_request(request).await?.status();
        connection.abort();
        Ok(status)
    }
}

#[test]
fn a_noisy_neighbour_takes_nothing_from_leaders() -> Result<()> {
    Stage::alone("noisy", |stage| {
        let cluster = stage.namespace.cluster();
        let schema = cluster.get(&["flowschema", "leader-elections"])?;
        let uid = schema["metadata"]["uid"].as_str().context("no uid")?;
        until("Lease requests of service accounts to have a priority of their own", || {
            let found = flow_schema_of(stage, "apis/coordination.k8s.io/v1", "leases/none")?;
            ensure!(found == uid, "leases fall under {found}, not under {uid}");
            Ok(())
        })?;
        let other = flow_schema_of(stage, "api/v1", "configmaps/none")?;
        ensure!(other != uid, "everything falls under the schema of elections");

        let workload = stage.start(&Writer::new("beside").replicas(2).lease_seconds(LEASE))?;
        let leader = workload.leading()?;
        let before = workload.lease()?;
        let refused = "apiserver_flowcontrol_rejected_requests_total";
        let refused_before = figure(cluster, refused, "leader-elections", "leader-election")?;

        let tarpit = Tarpit::open(stage)?;
        let flood = Flood::begin(stage)?;
        let waiting = || {
            let name = "apiserver_flowcontrol_current_inqueue_requests";
            let waiting = figure(cluster, name, "service-accounts", "workload-low")?;
            ensure!(waiting > 0.0, "nobody waits for a seat");
            Ok(())
        };
        until("the neighbour to fill what service accounts share", &waiting)?;
        // Two leases long the leader renews, every 2 s, as if nobody else were there.
        let (mut renewals, mut looks, mut seen_waiting) = (Vec::<Value>::new(), 0, 0);
        until("renewals for two leases", || {
            looks += 1;
            seen_waiting += i32::from(waiting().is_ok());
            let lease = workload.lease()?;
            ensure!(lease["spec"]["leaseTransitions"] == before["spec"]["leaseTransitions"], "{lease:#}");
            let renewed = lease["spec"]["renewTime"].clone();
            if renewals.last() != Some(&renewed) {
                renewals.push(renewed);
            }
            ensure!(renewals.len() > usize::try_from(2 * LEASE / 2)?, "{} renewals", renewals.len());
            Ok(())
        })?;
        // Those that have waited too long are sent away at once, and come again after a moment: then nobody waits.
        ensure!(2 * seen_waiting > looks, "at {seen_waiting} of {looks} looks only somebody waited for a seat");
        drop((flood, tarpit));

        let more = figure(cluster, refused, "leader-elections", "leader-election")? - refused_before;
        ensure!(more < 1.0, "{more} Lease requests were refused");
        let lease = workload.lease()?;
        ensure!(lease["spec"]["holderIdentity"] == before["spec"]["holderIdentity"], "{lease:#}");
        ensure!(workload.leading()?.writer == leader.writer, "the leader was replaced");
        workload.never_two(1)
    })
}
