//! `cargo xtask demo`: the whole path on a real cluster, told as it goes, and checked at every step.

mod ledger;
mod narrator;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leader_ledger::overlap::Writer;
use leader_tests::Cluster;
use leader_tests::progress::say;

use crate::cluster::Name;
use crate::images::{self, References};
use crate::{install, overlay};
use ledger::{ID, Ledger, NAMESPACE, REPORT, gap};
use narrator::Narrator;

/// How long pods may take to come and go on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a Lease is held against others when its holder has vanished, as nothing else is asked for.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Shows everything, on the cluster of this name, which is brought up when it is not.
pub(crate) fn run(name: &Name) -> Result<()> {
    let started = Instant::now();
    let cluster = Cluster::up(&name.name)?;
    let references = images::build_and_push(&cluster, None)?;
    install::install(&cluster, &references)?;
    say(format!("ready to begin after {:.0} s", started.elapsed().as_secs_f32()));
    let demo = Demo { ledger: Ledger::new(&cluster), cluster: &cluster, teller: Narrator::new(&cluster) };
    demo.tell(&references).inspect_err(|_| {
        say(format!(
            "\nThe demo failed. What there is in namespace {NAMESPACE}:\n{}",
            Ledger::new(&cluster).diagnosis()
        ));
    })
}

struct Demo<'a> {
    cluster: &'a Cluster,
    ledger: Ledger<'a>,
    teller: Narrator<'a>,
}

impl Demo<'_> {
    fn tell(mut self, references: &References) -> Result<()> {
        self.deploy(references)?;
        let before = self.ledger.spec()?;
        self.dry_run()?;
        let first = self.annotate()?;
        let second = self.hand_over(&first)?;
        self.fail_over(&second)?;
        self.judge()?;
        self.remove(&before)?;
        self.farewell();
        Ok(())
    }

    fn deploy(&mut self, references: &References) -> Result<()> {
        let teller = &mut self.teller;
        teller.step("An application that does harm when it runs more than once");
        println!(
            "Each replica of `writer` continues the numbering that it finds in the ledger of `keeper`, which knows\n\
             every writer. Nobody has thought of leader election yet.",
        );
        let flags = ["--ignore-not-found", "--timeout=120s"];
        self.cluster.kubectl(&["delete", "namespace", NAMESPACE]).args(flags).run()?;
        teller.apply(&overlay::write(self.cluster, "deploy/examples", references)?, "deploy/examples")?;
        self.rolled_out()?;
        let report = self.ledger.wait_for_unelected(3, PATIENCE)?;
        let twice = self.ledger.wait_for_harm(100, PATIENCE)?;
        self.teller.kubectl(&["get", "--raw", REPORT])?;
        ensure!(report.unelected.len() == 3, "three writers make three pairs, and {} overlap", report.unelected.len());
        self.teller.good(format!("three writers at once, and {twice} numbers were given twice: that is the harm"));
        Ok(())
    }

    fn dry_run(&mut self) -> Result<()> {
        self.teller.step("What one annotation would change");
        let line = format!(
            "kubectl get deployment/writer -n {NAMESPACE} -o yaml | \
             kubectl annotate --local -f - leader.io/id={ID} -o yaml | kubectl diff -f -"
        );
        // By kubectl diff's code 1: there is a difference.
        self.teller.shell(&line, &[1])?;
        for (kind, name) in [("lease", ID.to_owned()), ("serviceaccount", format!("leader-{ID}"))] {
            self.ledger.ensure_absent(kind, &name)?;
        }
        self.teller.good("nothing was changed, and nothing created");
        Ok(())
    }

    fn annotate(&mut self) -> Result<Writer> {
        self.teller.step("Turn election on");
        self.teller.kubectl(&["annotate", "deployment/writer", "-n", NAMESPACE, &format!("leader.io/id={ID}")])?;
        let annotated = Instant::now();
        self.rolled_out()?;
        self.ledger.wait_for_ready_pods(3, PATIENCE)?;
        println!(
            "The first start of an id takes the Lease's duration, {} s: the Lease is new, so that none of the pods can\n\
             know that no other held one of this name before, and each waits until such a holder would have given up.",
            LEASE_DURATION.as_secs()
        );
        let (_, leader) = self.ledger.wait_for_leader(None, PATIENCE)?;
        let writer = leader.run.writer;
        println!("{} was elected {:.1} s after the annotation.", writer.pod, annotated.elapsed().as_secs_f32());
        self.teller.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=writer"])?;
        self.teller.kubectl(&["describe", "lease", ID, "-n", NAMESPACE])?;
        self.teller.kubectl(&["get", "--raw", REPORT])?;
        let (holder, sets) = (self.ledger.holder()?, self.ledger.replica_sets()?);
        ensure!(holder == writer.pod, "the Lease names {holder}, but {} writes", writer.pod);
        ensure!(sets == 2, "one rollout makes a second ReplicaSet, and there are {sets}");
        self.teller.good("one rollout; three Ready pods, one of them writes, and the Lease names it");
        Ok(writer)
    }

    fn hand_over(&mut self, leader: &Writer) -> Result<Writer> {
        self.teller.step("The leader's pod is deleted: hand-over");
        self.teller.kubectl(&["delete", "pod", &leader.pod, "-n", NAMESPACE])?;
        let (report, next) = self.ledger.wait_for_leader(Some(leader), PATIENCE)?;
        let next = next.run.writer;
        let gap = gap(&report, leader, &next)?;
        self.teller.good(format!(
            "{} ended, and then {} began: nobody wrote for {} ms. The leader released the Lease as it ended.",
            leader.pod,
            next.pod,
            gap.as_millis()
        ));
        self.ledger.wait_for_ready_pods(3, PATIENCE)?;
        Ok(next)
    }

    fn fail_over(&mut self, leader: &Writer) -> Result<()> {
        self.teller.step("The leader's pod vanishes without a word: fail-over");
        println!(
            "All its processes are killed on the node at once, as when the power fails, and the pod is taken off the list."
        );
        let processes = self.ledger.processes(&leader.pod)?;
        ensure!(!processes.is_empty(), "no processes of {} were found", leader.pod);
        // The first to die takes the others along, and kill then says by code 1 that they are gone.
        self.teller.shell(&format!("kill -9 {}", processes.join(" ")), &[0, 1])?;
        self.teller.kubectl(&["delete", "pod", &leader.pod, "-n", NAMESPACE, "--grace-period=0", "--force"])?;
        let (report, next) = self.ledger.wait_for_leader(Some(leader), PATIENCE)?;
        let next = next.run.writer;
        let gap = gap(&report, leader, &next)?;
        self.teller.good(format!(
            "{} took over: nobody wrote for {:.1} s. Nobody knew that the leader was dead, so that the others\n   \
             waited for the Lease's {} s: until then the leader would have stopped by itself.",
            next.pod,
            gap.as_secs_f32(),
            LEASE_DURATION.as_secs()
        ));
        self.ledger.wait_for_ready_pods(3, PATIENCE)?;
        Ok(())
    }

    fn judge(&mut self) -> Result<()> {
        self.teller.step("What the ledger says");
        self.teller.kubectl(&["get", "--raw", REPORT])?;
        let report = self.ledger.report()?;
        let elected = report.runs.iter().filter(|run| run.run.writer.elected()).count();
        ensure!(elected >= 3, "{elected} elected writers wrote: the three terms are not all in the ledger");
        ensure!(report.elected.is_empty(), "elected writers overlapped: {:?}", report.elected);
        self.teller.good(format!("{elected} elected writers, one after the other: no two of them ever overlapped"));
        Ok(())
    }

    fn remove(&mut self, before: &serde_json::Value) -> Result<()> {
        self.teller.step("Turn election off");
        self.teller.kubectl(&["annotate", "deployment/writer", "-n", NAMESPACE, "leader.io/id-"])?;
        self.rolled_out()?;
        let after = self.ledger.spec()?;
        ensure!(after == *before, "the Deployment is not as it was:\nbefore: {before}\nafter:  {after}");
        self.ledger.wait_for_unelected(3, PATIENCE)?;
        self.teller.good("the Deployment is word for word what it was, and all three replicas write again");
        Ok(())
    }

    fn farewell(&mut self) {
        let name = self.cluster.name();
        self.teller.step("To look around, and to clean up");
        println!(
            "Everything is still there. kubectl for this cluster, and the namespace of the example:\n    \
             cargo xtask cluster kubectl --name {name} -- get all -n {NAMESPACE}\n    \
             cargo xtask cluster kubectl --name {name} -- annotate deployment/writer -n {NAMESPACE} leader.io/id={ID}\n\
             A shell in the cluster's network, with KUBECONFIG set:\n    \
             cargo xtask cluster exec --name {name} -- bash\n\
             And to leave nothing behind:\n    \
             cargo xtask cluster down --name {name}"
        );
    }

    fn rolled_out(&self) -> Result<()> {
        self.teller.kubectl(&["rollout", "status", "deployment/writer", "-n", NAMESPACE, "--timeout=180s"]).map(drop)
    }
}
