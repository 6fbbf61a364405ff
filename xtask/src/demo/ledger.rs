//! The example on the cluster: what its Deployment and its ledger say.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leader_ledger::overlap::Writer;
use leader_ledger::report::{Report, RunReport};
use leader_tests::{Cluster, wait};
use serde_json::Value;

/// The namespace of `deploy/examples`.
pub(super) const NAMESPACE: &str = "ledger";
/// The id of the election.
pub(super) const ID: &str = "ledger";
/// The keeper's report, through the API server.
pub(super) const REPORT: &str = "/api/v1/namespaces/ledger/services/keeper:report/proxy/";
/// A writer that was not heard of for so long, in nanoseconds, does not write. It writes every 10 ms.
const SILENCE: u64 = 500_000_000;
const MILLISECOND: u64 = 1_000_000;

/// The example's objects.
pub(super) struct Ledger<'a> {
    cluster: &'a Cluster,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    pub(super) fn report(&self) -> Result<Report> {
        let text = self.cluster.kubectl(&["get", "--raw", &format!("{REPORT}report")]).run()?;
        serde_json::from_str(&text).with_context(|| format!("the keeper's report is not what it should be: {text}"))
    }

    /// What the user wrote: the Deployment's spec, as the API server holds it.
    pub(super) fn spec(&self) -> Result<Value> {
        Ok(self.get(&["deployment/writer"])?["spec"].clone())
    }

    /// Waits until so many writers write at once, none of them elected.
    pub(super) fn wait_for_unelected(&self, count: usize, patience: Duration) -> Result<Report> {
        wait::until(&format!("{count} writers that are not elected"), patience, || {
            let report = self.report()?;
            let writing = writing(&report);
            ensure!(
                writing.len() == count && writing.iter().all(|writer| !writer.elected()),
                "there are {}",
                names(&writing)
            );
            Ok(report)
        })
    }

    /// Waits until they have done harm enough to be seen: so many numbers given twice. Gives how many there are.
    pub(super) fn wait_for_harm(&self, numbers: u64, patience: Duration) -> Result<u64> {
        wait::until(&format!("{numbers} numbers given twice"), patience, || {
            let twice = self.report()?.runs.iter().map(|run| run.given_twice).sum();
            ensure!(twice >= numbers, "there are {twice}");
            Ok(twice)
        })
    }

    /// Waits until exactly one writer writes, elected, and other than `not`.
    pub(super) fn wait_for_leader(&self, not: Option<&Writer>, patience: Duration) -> Result<(Report, RunReport)> {
        wait::until("one elected writer", patience, || {
            let report = self.report()?;
            let writing = writing(&report);
            let [leader] = writing[..] else { bail!("there are {}", names(&writing)) };
            ensure!(leader.elected(), "{} is not elected", leader.pod);
            ensure!(Some(leader) != not, "{} still writes", leader.pod);
            let run =
                report.runs.iter().find(|run| run.run.writer == *leader).cloned().context("a writer without run")?;
            Ok((report, run))
        })
    }

    /// Waits until the writer's pods are `count`, each of them Ready and none of them ending.
    pub(super) fn wait_for_ready_pods(&self, count: usize, patience: Duration) -> Result<()> {
        wait::until(&format!("{count} Ready pods"), patience, || {
            let pods = self.get(&["pods", "--selector=app.kubernetes.io/name=writer"])?;
            let pods = pods["items"].as_array().context("a list without items")?;
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
                pod["metadata"]["deletionTimestamp"].is_null() && ready.any(|condition| condition["status"] == "True")
            };
            let ready = pods.iter().filter(ready).count();
            ensure!(pods.len() == count && ready == count, "{ready} of {} pods are Ready", pods.len());
            Ok(())
        })
    }

    /// The pod that the Lease names.
    pub(super) fn holder(&self) -> Result<String> {
        let lease = self.get(&["lease", ID])?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let pod = holder.split('_').next().unwrap_or_default();
        ensure!(!pod.is_empty(), "the Lease {ID} has no holder");
        Ok(pod.to_owned())
    }

    /// How many `ReplicaSets` the Deployment has ever made: one more than it was rolled out.
    pub(super) fn replica_sets(&self) -> Result<usize> {
        let sets = self.get(&["replicasets", "--selector=app.kubernetes.io/name=writer"])?;
        Ok(sets["items"].as_array().context("a list without items")?.len())
    }

    /// Fails when an object of this kind and name exists.
    pub(super) fn ensure_absent(&self, kind: &str, name: &str) -> Result<()> {
        let found = self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "name"]).run()?;
        ensure!(found.is_empty(), "{} exists", found.trim());
        Ok(())
    }

    /// The processes of a pod's writer, as the machine knows them.
    pub(super) fn processes(&self, pod: &str) -> Result<Vec<String>> {
        let object = self.get(&["pod", pod])?;
        let uid = object["metadata"]["uid"].as_str().context("a pod without a uid")?;
        let id = object["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let id = id.rsplit('/').next().unwrap_or_default();
        let processes = self.cluster.control_group().container_processes(uid, id)?;
        Ok(processes.into_iter().map(|pid| pid.to_string()).collect())
    }

    /// What a person would look at when something did not happen.
    pub(super) fn diagnosis(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "deployments,replicasets,pods,leases", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--selector=app.kubernetes.io/name=writer", "--all-containers", "--prefix", "--tail=20"],
        ] {
            text += &["$ kubectl -n ", NAMESPACE, " ", &arguments.join(" "), "\n"].concat();
            text += &self.kubectl(arguments).output().map_or_else(|e| format!("{e:#}\n"), |o| o.stdout + &o.stderr);
        }
        text + &self.report().map_or_else(|error| format!("no report: {error:#}\n"), |report| report.to_string())
    }

    fn kubectl(&self, arguments: &[&str]) -> leader_tests::command::Tool {
        self.cluster.kubectl(&["--namespace", NAMESPACE]).args(arguments)
    }

    fn get(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.get(&[&["--namespace", NAMESPACE], arguments].concat())
    }
}

/// The time between the last stamp of one run and the first of another.
pub(super) fn gap(report: &Report, from: &Writer, to: &Writer) -> Result<Duration> {
    let find = |writer: &Writer| report.runs.iter().find(|run| run.run.writer == *writer).map(|run| &run.run);
    let (from, to) = find(from).zip(find(to)).context("a run has vanished from the report")?;
    match to.first.checked_sub(from.last) {
        Some(gap) => Ok(Duration::from_nanos(gap)),
        None => bail!(
            "{} wrote {} ms before {} had ended",
            to.writer.pod,
            (from.last - to.first) / MILLISECOND,
            from.writer.pod
        ),
    }
}

fn writing(report: &Report) -> Vec<&Writer> {
    report.writing(SILENCE).map(|run| &run.run.writer).collect()
}

fn names(writers: &[&Writer]) -> String {
    let name = |writer: &&Writer| match writer.token {
        Some(token) => format!("{} (token {token})", writer.pod),
        None => format!("{} (not elected)", writer.pod),
    };
    if writers.is_empty() { "none".to_owned() } else { writers.iter().map(name).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leader_ledger::ledger::Ledger as Book;
    use leader_ledger::wire::{Entry, Hello};

    fn writer(pod: &str, started: u64) -> Writer {
        Writer { pod: pod.to_owned(), token: Some(started), started }
    }

    fn report(spans: &[(&Writer, u64)], now: u64) -> Report {
        let mut book = Book::default();
        for (writer, last) in spans {
            let hello = Hello { writer: (*writer).clone(), boot: writer.started, wall: 0 };
            let (seat, next) = book.open(&hello, writer.started);
            book.append(&seat, Entry { number: next, boot: *last, wall: 0 }, *last);
        }
        book.report(now)
    }

    #[test]
    fn the_gap_is_from_the_last_stamp_to_the_next_start() {
        let (a, b) = (writer("a", 1), writer("b", 7_000_000_100));
        let report = report(&[(&a, 100), (&b, 8_000_000_000)], 8_000_000_001);
        assert_eq!(gap(&report, &a, &b).unwrap(), Duration::from_secs(7));
        assert_eq!(names(&writing(&report)), "b (token 7000000100)");
    }

    #[test]
    fn writers_that_overlap_have_no_gap() {
        let (a, b) = (writer("a", 1), writer("b", 5_000_000));
        let report = report(&[(&a, 15_000_000), (&b, 20_000_000)], 20_000_001);
        assert_eq!(gap(&report, &a, &b).unwrap_err().to_string(), "b wrote 10 ms before a had ended");
    }
}
