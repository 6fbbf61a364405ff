//! The two servers, each in a process of its own, and what the kernel says about them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rustix::param::clock_ticks_per_second;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::client::Connection;

/// The image that is injected; nothing runs it.
pub(crate) const AGENT_IMAGE: &str = "ghcr.io/leader-io/leader-agent:0.1.0";
/// Where the webhook keeps its objects here; a webhook that is installed in the same cluster is not touched.
const NAMESPACE: &str = "leader-bench";
const SECRET: &str = "leader-bench-ca";
/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server, which ends with this value.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    authority: String,
}

/// Memory of a process, in bytes.
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) highest: u64,
}

impl Server {
    /// The webhook, at the API server of KUBECONFIG.
    pub(crate) async fn webhook(binary: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let child = Command::new(binary)
            .args(["--listen", &address.to_string(), "--namespace", NAMESPACE, "--configuration", NAMESPACE])
            .args(["--ca-secret", SECRET, "--agent-image", AGENT_IMAGE])
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let client = Client::try_default().await.context("KUBECONFIG must lead to an API server")?;
        let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
        let mut server = Self { child, address, authority: String::new() };
        let started = Instant::now();
        loop {
            if let Some(secret) = secrets.get_opt(SECRET).await?
                && let Some(certificate) = secret.data.unwrap_or_default().remove("tls.crt")
            {
                server.authority = String::from_utf8(certificate.0)?;
                if server.connect().await.is_ok() {
                    return Ok(server);
                }
            }
            ensure!(started.elapsed() < PATIENCE, "the webhook did not come up within {PATIENCE:?}");
            ensure!(server.child.try_wait()?.is_none(), "the webhook ended: run it by hand to see why");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The server that sends bodies back.
    pub(crate) async fn echo() -> anyhow::Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg("--echo").stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = child.stdout.take().context("its output is piped")?;
        let line = BufReader::new(output).lines().next_line().await?.context("it said nothing")?;
        let said: serde_json::Value = serde_json::from_str(&line)?;
        let text = |key: &str| said[key].as_str().with_context(|| format!("{key} is missing in {line}"));
        Ok(Self { address: text("address")?.parse()?, authority: text("authority")?.to_owned(), child })
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, &self.authority).await
    }

    /// Its memory, as `proc_pid_status(5)` has it.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let status = self.proc("status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|value| value.trim().strip_suffix(" kB"));
            anyhow::Ok(kilobytes.with_context(|| format!("no {name}"))?.parse::<u64>()? * 1024)
        };
        Ok(Memory { now: field("VmRSS")?, highest: field("VmHWM")? })
    }

    /// The processor time that it has used, as `proc_pid_stat(5)` has it.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may hold anything; utime and stime are the 14th and 15th field, the name is the 2nd.
        let (_, rest) = stat.rsplit_once(')').context("no name")?;
        let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        #[allow(clippy::cast_precision_loss)] // It counts hundredths of seconds.
        Ok(Duration::from_secs_f64(ticks.iter().sum::<u64>() as f64 / clock_ticks_per_second() as f64))
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id().context("the server ended")?);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}
