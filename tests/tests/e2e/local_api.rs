//! What the agents of a cluster say about themselves on their port, through the API server's way to pods.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// Where an agent answers when its workload says nothing else.
const PORT: u16 = 9809;

/// What an agent answers.
fn ask(workload: &Workload<'_>, pod: &str, path: &str) -> Result<String> {
    let namespace = &workload.stage.namespace;
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:{PORT}/proxy/{path}", namespace.name());
    namespace.run(&["get", "--raw", &path])
}

/// Waits until all agents say that this pod leads, by their answers and by their figures.
fn all_say(workload: &Workload<'_>, leader: &str) -> Result<()> {
    until(&format!("answers by which {leader} leads"), || {
        let pods = workload.ready_pods()?;
        ensure!(pods.len() == 2 && pods.iter().any(|pod| pod == leader), "{pods:?} are ready");
        for pod in pods {
            let answer: Value = serde_json::from_str(&ask(workload, &pod, "leader")?)?;
            let leads = pod == leader;
            let holder = answer["holder"].as_str().with_context(|| format!("no holder: {answer}"))?;
            ensure!(holder.starts_with(&format!("{leader}_")), "{pod} says {answer}");
            ensure!(answer["leading"] == leads, "{pod} says {answer}");
            for only_while_leading in ["token", "believe_until"] {
                ensure!(answer[only_while_leading].is_number() == leads, "{pod} says {answer}");
            }
            let figures = ask(workload, &pod, "metrics")?;
            let series = format!("leader_agent_leading{{id=\"{}\"}} ", workload.name);
            let figure = figures.lines().find_map(|line| line.strip_prefix(&series));
            let figure: f64 = figure.with_context(|| format!("no {series} of {pod} in\n{figures}"))?.parse()?;
            ensure!((figure > 0.5) == leads, "{series}of {pod} is {figure}");
        }
        Ok(())
    })
}

#[test]
fn every_agent_says_who_leads_before_and_after_a_hand_over() -> Result<()> {
    Stage::test("local-api", |stage| {
        let workload = stage.start(&Writer::new("told").replicas(2).elected())?;
        let first = workload.leading()?;
        all_say(&workload, &first.writer.pod)?;
        stage.namespace.run(&["delete", "pod", &first.writer.pod, "--wait=false"])?;
        let (_, second) = workload.led_after(&first)?;
        all_say(&workload, &second.writer.pod)
    })
}
