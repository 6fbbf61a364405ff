//! Steering by people: `kubectl leader status`, `step-down`, `transfer`, `hold`, `resume`, `history`, and `logs`, `exec` and
//! `port-forward` to the leader, as a process of its own beside the cluster's kubectl.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leader_agent::names;
use leader_ledger::clock;
use leader_tests::command::Output;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::program;
use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// Runs `kubectl leader VERB WORDS` in the stage's namespace.
fn leader(stage: &Stage, verb: &str, words: &[&str]) -> Result<Output> {
    let namespace = &stage.namespace;
    let program = namespace.cluster().tool(program::folder()?.join("kubectl-leader"));
    program.args([verb, "--namespace", namespace.name()]).args(words).output()
}

/// What it prints when all goes well.
pub(crate) fn said(stage: &Stage, verb: &str, words: &[&str]) -> Result<String> {
    let output = leader(stage, verb, words)?;
    ensure!(output.success(), "kubectl leader {verb} {words:?}: {output:?}");
    Ok(output.stdout)
}

/// What it says is wrong; the exit code is 2.
fn refused(stage: &Stage, verb: &str, words: &[&str]) -> Result<String> {
    let output = leader(stage, verb, words)?;
    ensure!(output.code == 2 && output.stdout.is_empty(), "kubectl leader {verb} {words:?}: {output:?}");
    Ok(output.stderr)
}

fn status(stage: &Stage, id: &str) -> Result<Value> {
    Ok(serde_json::from_str(&said(stage, "status", &[id, "-o", "json"])?)?)
}

/// Waits until all but the leader stand by, so that they can be asked to take over; gives their names.
pub(crate) fn standbys(stage: &Stage, id: &str, count: usize) -> Result<Vec<String>> {
    until(&format!("{count} standbys of {id}"), || {
        let election = status(stage, id)?;
        let standbys = election["standbys"].as_array().context("no list")?;
        let ready = standbys.iter().filter(|standby| standby["ready"] == true);
        let ready: Vec<String> = ready.filter_map(|standby| standby["pod"].as_str()).map(str::to_owned).collect();
        ensure!(ready.len() == count && !election["leader"].is_null(), "{election:#}");
        Ok(ready)
    })
}

/// A program that goes on until it is told to end, and with it what it started.
struct Running(Child);

impl Running {
    /// Runs `kubectl leader` with these words.
    fn start(stage: &Stage, words: &[&str]) -> Result<Self> {
        let namespace = &stage.namespace;
        // It passes signals on to all that it has started, and ends by itself when this test was killed.
        let timeout = namespace.cluster().tool("timeout").arg("300").arg(program::folder()?.join("kubectl-leader"));
        let mut command = timeout.args(words).into_command();
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    /// Its output, line by line.
    fn lines(&mut self) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
        Ok(BufReader::new(self.0.stdout.take().context("taken already")?).lines())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

#[test]
fn status_says_who_leads_and_who_would() -> Result<()> {
    Stage::test("status", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(3).lease_seconds(15))?;
        let leading = workload.leading()?.writer.pod;
        let standbys = standbys(stage, "billing", 2)?;
        ensure!(!standbys.contains(&leading), "{leading} leads and stands by: {standbys:?}");
        let election = status(stage, "billing")?;
        ensure!(election["leader"]["pod"] == leading.as_str() && election["leader"]["ready"] == true, "{election:#}");
        ensure!(
            election["leader"]["node"].is_string() && election["workloads"] == json!(["deployment/billing"]),
            "{election:#}"
        );
        ensure!(election["leaseDurationSeconds"] == 15 && election["trouble"] == json!([]), "{election:#}");

        let name = said(stage, "status", &["billing", "-o", "name"])?;
        ensure!(name == format!("pod/{leading}\n"), "{name}");
        stage.namespace.run(&["get", name.trim()])?;
        let table = said(stage, "status", &[])?;
        let row = table.lines().find(|line| line.starts_with("billing ")).with_context(|| table.clone())?;
        ensure!(row.contains("deployment/billing") && row.contains(&leading) && table.lines().count() == 2, "{table}");
        let wide = said(stage, "status", &["-A", "-o", "wide"])?;
        let row = wide.lines().find(|line| line.starts_with(stage.namespace.name())).with_context(|| wide.clone())?;
        ensure!(standbys.iter().all(|pod| row.contains(pod.as_str())), "{wide}");

        let nobody = refused(stage, "status", &["nobody"])?;
        ensure!(nobody.contains("there is no election `nobody`"), "{nobody}");
        stage.namespace.run(&["scale", "deployment/billing", "--replicas=0"])?;
        let output = until("nobody to lead", || {
            let output = leader(stage, "status", &["billing", "-o", "name"])?;
            ensure!(output.code == 1 && output.stdout.is_empty(), "{output:?}");
            Ok(output)
        })?;
        ensure!(output.stderr.starts_with("nobody leads `billing`"), "{output:?}");
        Ok(())
    })
}

#[test]
fn a_leader_steps_down_when_it_is_asked_and_it_stands_there_who_asked() -> Result<()> {
    Stage::test("step-down", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(3).lease_seconds(15))?;
        let mut last = workload.leading()?;
        let me = stage.namespace.run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
        // A term that ends before the controller has looked at it is not told of.
        let told = |steered: usize| {
            until("the history of this term", || {
                let history = said(stage, "history", &["billing"])?;
                let told = |reason: &str| history.lines().filter(|line| line.contains(reason)).count();
                ensure!(told("LeaderSteered") >= steered && told("LeaderElected") > steered, "{history}");
                let asked = format!("{} asked of `billing`: step-down of ", me.trim());
                ensure!(steered == 0 || history.contains(&asked), "{history}");
                Ok(())
            })
        };
        told(0)?;
        for round in 1..=3 {
            standbys(stage, "billing", 2)?;
            let text = said(stage, "step-down", &["billing"])?;
            let (before, now) = workload.led_after(&last)?;
            ensure!(now.writer.pod != before.writer.pod, "the same leads: {text}");
            ensure!(text.contains(&format!("{} leads `billing` now", now.writer.pod)), "{text}");
            last = now;
            told(round)?;
        }
        let lease = stage.namespace.get(&["lease", "billing", "--show-managed-fields"])?;
        let annotations = &lease["metadata"]["annotations"];
        ensure!(annotations[names::STEP_DOWN].is_null(), "the request is still there: {lease:#}");
        let steered: Value = serde_json::from_str(annotations[names::STEERED].as_str().context("nobody is named")?)?;
        ensure!(steered["by"] == me.trim(), "{steered} and not {me}");
        ensure!(steered["what"].as_str().is_some_and(|what| what.starts_with("step-down of billing-")), "{steered}");
        let managers = lease["metadata"]["managedFields"].as_array().context("no managers")?;
        ensure!(managers.iter().any(|manager| manager["manager"] == "kubectl-leader"), "{managers:#?}");
        workload.never_two(4)
    })
}

/// Longer than the lease lasts, and five times the stop grace, which is for a lease that is being lost.
#[test]
fn an_app_that_takes_long_to_stop_has_the_pods_grace_period_for_it() -> Result<()> {
    const LONG: u64 = 20;
    Stage::test("slow-stop", |stage| {
        let slow = Writer::new("billing").replicas(2).lease_seconds(15).stop_seconds(40);
        let workload = stage.start(&slow.variable("SHUTDOWN_SECONDS", &LONG.to_string()))?;
        let leader = workload.leading()?;
        standbys(stage, "billing", 1)?;
        let asked = clock::boot()?;
        let text = said(stage, "step-down", &["billing"])?;
        let (before, now) = workload.led_after(&leader)?;
        ensure!(text.contains(&format!("{} leads `billing` now", now.writer.pod)), "{text}");
        let ran_on = Duration::from_nanos(before.last.saturating_sub(asked));
        ensure!(ran_on >= Duration::from_secs(LONG - 1), "it was stopped after {ran_on:?}");
        let log = stage.namespace.run(&["logs", &before.writer.pod])?;
        ensure!(log.contains("the application ended code=0"), "{log}");
        workload.never_two(2)
    })
}

#[test]
fn leadership_goes_to_the_pod_that_is_named() -> Result<()> {
    Stage::test("transfer", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(3).lease_seconds(15))?;
        let mut last = workload.leading()?;
        for (pod, why) in [(last.writer.pod.as_str(), "it leads already"), ("billing-x", "there is no such pod")] {
            let error = refused(stage, "transfer", &["billing", "--to", pod])?;
            ensure!(error.contains(&format!("pod {pod} is no standby of `billing`: {why}")), "{error}");
        }
        let keepers = stage.namespace.get(&["pods", "--selector=app=keeper"])?;
        let keeper = keepers["items"][0]["metadata"]["name"].as_str().context("no keeper")?;
        let error = refused(stage, "transfer", &["billing", "--to", keeper])?;
        ensure!(error.contains("it takes part in no election"), "{error}");
        ensure!(workload.lease()?["metadata"]["annotations"][names::STEERED].is_null(), "something was asked");
        for round in 0..4 {
            let standbys = standbys(stage, "billing", 2)?;
            let to = &standbys[round % 2];
            let text = said(stage, "transfer", &["billing", "--to", to])?;
            let (_, now) = workload.led_after(&last)?;
            ensure!(now.writer.pod == *to, "{} leads, and not {to}: {text}", now.writer.pod);
            last = now;
        }
        let annotations = &workload.lease()?["metadata"]["annotations"];
        ensure!(annotations[names::TRANSFER_TO].is_null(), "the wish outlives its term: {annotations:#}");
        workload.never_two(5)
    })
}

#[test]
fn nobody_leads_while_an_election_is_on_hold() -> Result<()> {
    Stage::test("hold", |stage| {
        // A lease that runs out while the new pods come.
        let workload = stage.start(&Writer::new("billing").replicas(2).elected())?;
        let first = workload.leading()?;
        let text = said(stage, "hold", &["billing", "--reason", "database upgrade"])?;
        ensure!(text.contains(&format!("{} has stopped", first.writer.pod)), "{text}");
        let ended = workload.runs()?;
        let election = status(stage, "billing")?;
        ensure!(election["leader"].is_null() && election["hold"] == "database upgrade", "{election:#}");
        ensure!(election["trouble"] == json!(["on hold: database upgrade"]), "{election:#}");
        // Neither new pods nor time end it.
        workload.kubectl(&["rollout", "restart"], &[])?;
        workload.wait_until_rolled_out()?;
        standbys_on_hold(&workload, 2)?;
        let error = refused(stage, "step-down", &["billing"])?;
        ensure!(error.contains("it is on hold"), "{error}");
        ensure!(workload.runs()?.len() == ended.len(), "somebody ran: {:#?}", workload.runs()?);

        let text = said(stage, "resume", &["billing"])?;
        ensure!(text.contains("it was: database upgrade"), "{text}");
        let second = workload.led_anew(&ended)?;
        ensure!(text.contains(&format!("{} leads `billing` now", second.writer.pod)), "{text}");
        let text = said(stage, "resume", &["billing"])?;
        ensure!(text.contains("neither on hold nor being turned on"), "{text}");
        workload.never_two(2)
    })
}

/// Waits until so many pods would lead if they might.
fn standbys_on_hold(workload: &Workload<'_>, count: usize) -> Result<()> {
    until("standbys that may not lead", || {
        let election = status(workload.stage, &workload.name)?;
        let standbys = election["standbys"].as_array().context("no list")?;
        ensure!(standbys.len() == count && election["leader"].is_null(), "{election:#}");
        Ok(())
    })
}

/// Whoever may patch the Lease may steer, and nobody else.
#[test]
fn the_rights_on_the_lease_decide_who_may_steer() -> Result<()> {
    Stage::test("steerers", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(2).lease_seconds(15))?;
        let first = workload.leading()?;
        standbys(stage, "billing", 1)?;
        let rules = |name: &str, verbs: &[&str]| {
            let rules = json!([
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["billing"], "verbs": verbs},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            ]);
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
            let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
            let metadata = json!({"name": name});
            json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules},
                {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [user]},
            ]})
        };
        stage.namespace.apply(&rules("reader", &["get"]).to_string())?;
        stage.namespace.apply(&rules("operator", &["get", "patch"]).to_string())?;
        let seen =
            until("the reader's rights", || said(stage, "status", &["billing", "-o", "name", "--as", "reader"]))?;
        ensure!(seen == format!("pod/{}\n", first.writer.pod), "{seen}");
        for request in [&["step-down", "billing"][..], &["hold", "billing"]] {
            let error = refused(stage, request[0], &[&request[1..], &["--as", "reader"]].concat())?;
            ensure!(error.contains("User \"reader\" cannot patch resource \"leases\""), "{error}");
        }
        ensure!(workload.lease()?["metadata"]["annotations"][names::STEERED].is_null(), "something was asked");
        until("the operator's rights", || said(stage, "status", &["billing", "--as", "operator"]))?;
        said(stage, "step-down", &["billing", "--as", "operator"])?;
        workload.led_after(&first)?;
        let steered = workload.lease()?["metadata"]["annotations"][names::STEERED].take();
        ensure!(steered.as_str().is_some_and(|steered| steered.contains("\"by\":\"operator\"")), "{steered}");
        workload.never_two(2)
    })
}

#[test]
fn logs_exec_and_port_forward_reach_the_leader() -> Result<()> {
    Stage::test("reach", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(2).lease_seconds(15))?;
        let leading = workload.leading()?.writer.pod;
        for (verb, words, path) in [
            ("logs", &["billing", "--tail=1", "-v=8"][..], format!("/pods/{leading}/log?container=writer")),
            ("logs", &["--tail", "1", "-v=8", "billing"], format!("/pods/{leading}/log?container=writer")),
            ("exec", &["billing", "-v=8", "--", "/leader/agent", "--version"][..], format!("/pods/{leading}")),
        ] {
            let output = leader(stage, verb, words)?;
            ensure!(output.success() && output.stderr.contains(&path), "{verb}: {output:?}");
        }
        let output = leader(stage, "exec", &["billing", "--", "/leader/agent", "--version"])?;
        ensure!(output.stdout.starts_with("leader-agent "), "{output:?}");
        // As most people type it: options first, and the namespace in one word with them.
        let program = stage.namespace.cluster().tool(program::folder()?.join("kubectl-leader"));
        let group = format!("-in{}", stage.namespace.name());
        let output = program.args(["exec", &group, "billing", "--", "/leader/agent", "--version"]).output()?;
        ensure!(output.success() && output.stdout.starts_with("leader-agent "), "{output:?}");
        let elsewhere = refused(stage, "exec", &["billing", "--cluster=other", "--", "/leader/agent"])?;
        ensure!(elsewhere.contains("--cluster is not taken here"), "{elsewhere}");
        let output = leader(stage, "exec", &["billing", "--", "/leader/agent", "no-such-command"])?;
        ensure!(!output.success(), "the exit code of the command is lost: {output:?}");
        let nobody = refused(stage, "logs", &["nobody"])?;
        ensure!(nobody.contains("there is no election `nobody`"), "{nobody}");

        let words = ["port-forward", "--namespace", stage.namespace.name(), "billing", ":9809"];
        let mut forward = Running::start(stage, &words)?;
        // Read on to its end: kubectl says so of each connection, and ends where nobody listens.
        let mut lines = forward.lines()?;
        let line = lines.next().context("it said nothing")??;
        let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(' '));
        let port: u16 = port.with_context(|| line.clone())?.0.parse()?;
        let answer = get(stage, port)?;
        ensure!(answer["leading"] == true, "it is not the leader: {answer}");
        ensure!(answer["holder"].as_str().is_some_and(|holder| holder.starts_with(&leading)), "{answer}");
        Ok(())
    })
}

/// What the agent says that listens behind this port of the cluster's node.
fn get(stage: &Stage, port: u16) -> Result<Value> {
    let cluster = stage.namespace.cluster();
    let text = std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<String> {
            cluster.enter_network()?;
            let mut connection = TcpStream::connect(("127.0.0.1", port))?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            connection.write_all(b"GET /leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut said = Vec::new();
            // kubectl resets the connection when the other side has closed it: what was said before is whole.
            let end = connection.read_to_end(&mut said);
            ensure!(end.is_ok() || !said.is_empty(), "nothing was said: {end:?}");
            Ok(String::from_utf8(said)?)
        });
        inside.join().map_err(|_| anyhow!("the thread panicked"))?
    })?;
    let (_, body) = text.split_once("\r\n\r\n").with_context(|| text.clone())?;
    let body = body.find('{').zip(body.rfind('}')).map(|(begin, end)| &body[begin..=end]);
    Ok(serde_json::from_str(body.with_context(|| text.clone())?)?)
}

#[test]
fn a_watch_shows_each_leader_when_it_leads() -> Result<()> {
    Stage::test("status-watch", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(2).lease_seconds(15))?;
        let first = workload.leading()?;
        standbys(stage, "billing", 1)?;
        let words = ["status", "--namespace", stage.namespace.name(), "billing", "-w", "-o", "name"];
        let mut watch = Running::start(stage, &words)?;
        let mut lines = watch.lines()?;
        let line = lines.next().context("it said nothing")??;
        ensure!(line == format!("pod/{}", first.writer.pod), "{line}");
        // Beside it a table of all namespaces, those of other tests among them.
        let mut table = Running::start(stage, &["status", "-A", "-w"])?;
        let mut rows = table.lines()?;
        let header = rows.next().context("there is no table")??;
        ensure!(header.starts_with("NAMESPACE ") && header.contains(" LEADER "), "{header}");
        shown(&mut rows, stage, &first.writer.pod)?;
        said(stage, "step-down", &["billing"])?;
        let (_, second) = workload.led_after(&first)?;
        let line = lines.next().context("it said nothing more")??;
        ensure!(line == format!("pod/{}", second.writer.pod), "{line}");
        shown(&mut rows, stage, &second.writer.pod)
    })
}

/// Reads on to the row in which this pod leads `billing` in the stage's namespace.
fn shown(rows: &mut impl Iterator<Item = std::io::Result<String>>, stage: &Stage, pod: &str) -> Result<()> {
    let mut ours = Vec::new();
    for row in rows {
        let row = row?;
        let cells: Vec<&str> = row.split_whitespace().take(4).collect();
        if cells == [stage.namespace.name(), "billing", "deployment/billing", pod] {
            return Ok(());
        }
        if cells.first() == Some(&stage.namespace.name()) {
            ours.push(row);
        }
    }
    Err(anyhow!("the table ended without a row in which {pod} leads: {ours:#?}"))
}

/// Nobody waits, and the leader hears of nothing before all have asked: what is stored then is one of the requests, whole, with who
/// asked for it, and leadership moves once.
#[test]
fn several_who_ask_at_once_are_answered_at_once_and_the_last_of_them_is_obeyed() -> Result<()> {
    Stage::test("at-once", |stage| {
        // A leader that is cut off gives up before its lease runs out; by then all have asked.
        let workload = stage.start(&Writer::new("billing").replicas(3).lease_seconds(30))?;
        let first = workload.leading()?;
        let standbys = standbys(stage, "billing", 2)?;
        let terms = || workload.lease()?["spec"]["leaseTransitions"].as_i64().context("no transitions");
        let term = terms()?;
        let cut = stage.namespace.cut_from_api_server(&first.writer.pod)?;
        let answers = std::thread::scope(|scope| {
            let words = |to| ["billing", "--to", to, "--wait=false"];
            let ask = |to| scope.spawn(move || said(stage, "transfer", &words(to)));
            let askers: Vec<_> = standbys.iter().cycle().take(4).map(|to| ask(to.as_str())).collect();
            let answers = askers.into_iter().map(|asker| asker.join().map_err(|_| anyhow!("the thread panicked"))?);
            answers.collect::<Result<Vec<String>>>()
        })?;
        for answer in answers {
            let asked = format!("{} is asked to give leadership of `billing` to ", first.writer.pod);
            let is_all = answer.contains(&asked) && answer.contains("status billing shows what comes of it");
            ensure!(is_all && answer.lines().count() == 2, "{answer}");
        }
        let lease = workload.lease()?;
        ensure!(terms()? == term, "leadership moved before the leader could hear of it: {lease:#}");
        let annotations = &lease["metadata"]["annotations"];
        let to = annotations[names::TRANSFER_TO].as_str().context("nobody is to lead")?;
        let steered: Value = serde_json::from_str(annotations[names::STEERED].as_str().context("nobody is named")?)?;
        let is_its = steered["what"].as_str().is_some_and(|what| what.ends_with(&format!(" to {to}")));
        ensure!(is_its, "{to} is to lead, and {steered} was asked");
        cut.heal()?;
        let (_, second) = workload.led_after(&first)?;
        ensure!(second.writer.pod == to, "{} leads, and not {to}", second.writer.pod);
        ensure!(terms()? == term + 1, "leadership moved {} times", terms()? - term);
        workload.never_two(2)
    })
}
