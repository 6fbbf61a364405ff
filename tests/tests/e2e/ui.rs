//! `kubectl leader ui` in a real browser: what it shows is so, its buttons do what they say, and nobody else may press them.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use leader_tests::command::exit_code;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::browser::{Browser, FOREIGN_SITE};
use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;
use crate::{pages, program};

/// As large as the picture in the docs.
const WINDOW: (u32, u32) = (1180, 640);
/// The election's part of the page.
const CARD: &str = "article[data-id=billing]";
/// When it is set, the picture of docs/ is made anew.
const PICTURE: &str = "LEADER_TESTS_PICTURE";

/// The command; interrupted when this is dropped.
struct Ui {
    child: Child,
    address: String,
}

impl Ui {
    fn start(stage: &Stage, more: &[&str]) -> Result<Self> {
        let program = program::folder()?.join("kubectl-leader");
        let tool = stage.namespace.cluster().tool(program).args(["ui", "--namespace", stage.namespace.name()]);
        let mut child = tool.args(more).into_command().stdout(Stdio::piped()).spawn().context("starting the page")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut ui = Self { child, address: String::new() };
        BufReader::new(stdout).read_line(&mut ui.address)?;
        ui.address.truncate(ui.address.trim_end().len());
        ensure!(ui.address.starts_with("http://127.0.0.1:"), "it prints {:?}", ui.address);
        Ok(ui)
    }

    /// The address without its token, and the token.
    fn parts(&self) -> Result<(&str, &str)> {
        self.address.split_once("/#").with_context(|| format!("no token in {}", self.address))
    }

    /// As Ctrl-C.
    fn interrupt(&self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
    }

    fn end(mut self) -> Result<()> {
        self.interrupt();
        let code = exit_code(self.child.wait()?);
        ensure!(code == 0, "Ctrl-C ended it with code {code}");
        Ok(())
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.child.wait();
    }
}

/// Waits until the page names this leader, and gives the pods that stand by.
fn led_by(browser: &Browser, pod: &str) -> Result<Vec<String>> {
    until(&format!("the page to show {pod} as the leader"), || {
        let shown = browser.value(&format!("document.querySelector('{CARD} [data-field=Leader]')?.innerText"))?;
        ensure!(shown == pod, "it shows {shown}");
        Ok(())
    })?;
    browser.shows(&format!("{CARD} [data-state]"), &["led"])?;
    let standbys =
        browser.value(&format!("[...document.querySelectorAll('{CARD} li[data-pod]')].map(pod => pod.dataset.pod)"))?;
    let standbys = standbys.as_array().into_iter().flatten();
    Ok(standbys.filter_map(|pod| pod.as_str().map(str::to_owned)).collect())
}

fn press(browser: &Browser, selector: &str, button: &str) -> Result<()> {
    browser.press(selector, button)?;
    browser.press("#ask", "Do it")
}

fn hold_of(workload: &Workload<'_>) -> Result<serde_json::Value> {
    Ok(workload.lease()?["metadata"]["annotations"]["leader.io/hold"].clone())
}

#[test]
fn the_page_shows_who_leads_and_its_buttons_move_leadership() -> Result<()> {
    Stage::test("ui", |stage| {
        let workload = stage.start(&Writer::new("billing").lease_seconds(15))?;
        let first = workload.leading()?;
        let ui = Ui::start(stage, &[])?;
        let browser = Browser::open(stage.namespace.cluster(), &ui.address, WINDOW)?;

        let standbys = led_by(&browser, &first.writer.pod)?;
        ensure!(standbys.len() == 2 && !standbys.contains(&first.writer.pod), "{standbys:?} stand by");
        let address = browser.value("location.href")?;
        ensure!(address == format!("{}/", ui.parts()?.0), "the token is left in {address}");

        press(&browser, CARD, "Step down")?;
        let second = workload.led_anew(std::slice::from_ref(&first))?;
        ensure!(second.writer.pod != first.writer.pod, "{} leads again", first.writer.pod);
        let standbys = led_by(&browser, &second.writer.pod)?;

        let wanted = standbys.iter().find(|pod| **pod != first.writer.pod).context("no third pod stands by")?;
        press(&browser, &format!("{CARD} li[data-pod='{wanted}']"), "Let it lead")?;
        let third = workload.led_anew(&[first.clone(), second.clone()])?;
        ensure!(third.writer.pod == *wanted, "{} leads, and not {wanted}", third.writer.pod);
        led_by(&browser, wanted)?;

        browser.value(&format!("document.querySelector('{CARD} summary').click()"))?;
        browser.shows(&format!("{CARD} table"), &["LeaderElected", wanted])?;
        let bars = browser
            .value(&format!("[...document.querySelectorAll('{CARD} .strip div')].map(bar => bar.dataset.pod)"))?;
        let of = |pod: &str| bars.as_array().into_iter().flatten().any(|bar| bar == pod);
        for pod in [&first.writer.pod, &second.writer.pod, wanted] {
            ensure!(of(pod), "the time line has {bars}, and not {pod}");
        }
        if env::var_os(PICTURE).is_some() {
            browser.value(&format!("document.querySelector('{CARD} summary').click()"))?;
            let nearer = "{ const range = document.querySelector('#range'); range.value = '15'; range.dispatchEvent(new Event('change')); }";
            browser.value(nearer)?;
            browser.picture(&pages::checkout().join("docs/ui.png"))?;
        }

        browser.press(CARD, "Hold")?;
        browser.type_into("#reason", "the database is moved")?;
        browser.press("#ask", "Do it")?;
        browser.shows(CARD, &["on hold", "the database is moved", "nobody"])?;
        ensure!(
            hold_of(&workload)?.as_str().is_some_and(|hold| hold.contains("the database is moved")),
            "{}",
            hold_of(&workload)?
        );
        press(&browser, CARD, "Resume")?;
        let fourth = workload.led_anew(&[first, second, third])?;
        led_by(&browser, &fourth.writer.pod)?;
        ensure!(hold_of(&workload)?.is_null(), "it is still on hold");

        ensure!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
        workload.never_two(4)?;
        ui.end()?;
        browser.shows("#banner", &["has ended"]).map(drop)
    })
}

#[test]
fn nobody_but_the_reader_of_the_address_sees_or_moves_anything() -> Result<()> {
    Stage::test("ui-others", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(2).lease_seconds(15))?;
        let leader = workload.leading()?;
        let ui = Ui::start(stage, &[])?;
        let (here, token) = ui.parts()?;
        let browser = Browser::open(stage.namespace.cluster(), &format!("{here}/"), WINDOW)?;
        browser.shows("#banner", &["token"])?;
        let cards = browser.value("document.querySelectorAll('article').length")?;
        ensure!(cards == 0, "{cards} elections are shown without a token");

        // A site whose name leads here: the browser takes it for that site's own.
        let (_, port) = here.rsplit_once(':').context("no port")?;
        browser.go_to(&format!("http://{FOREIGN_SITE}:{port}/#{token}"))?;
        browser.shows("body", &["only at http://localhost"])?;

        // A page of another origin, even one that has learnt the token, and one that wants no answer.
        browser.go_to("about:blank")?;
        for request in [
            format!("{{headers: {{authorization: 'Bearer {token}'}}}}"),
            format!(
                "{{method: 'POST', headers: {{authorization: 'Bearer {token}', 'content-type': 'application/json'}}, body: '{{\"wish\":\"hold\"}}'}}"
            ),
            "{method: 'POST', mode: 'no-cors', body: '{\"wish\":\"hold\"}'}".to_owned(),
        ] {
            let path = format!("{here}/api/elections/{}/billing", stage.namespace.name());
            let script = format!("fetch({}, {request}).then(answer => answer.type, () => 'refused')", json!(path));
            let answer = browser.value(&script)?;
            // An opaque answer is one that the page cannot read.
            ensure!(answer == "refused" || answer == "opaque", "{request} was answered: {answer}");
        }
        ensure!(hold_of(&workload)?.is_null(), "another site put the election on hold");
        ensure!(workload.leading()?.writer == leader.writer, "another site moved leadership");
        workload.never_two(1)
    })
}

/// Somebody who may look and not touch.
const VIEWER: &str = "viewer";

#[test]
fn the_buttons_have_the_rights_of_the_person_and_no_others() -> Result<()> {
    Stage::test("ui-rights", |stage| {
        let workload = stage.start(&Writer::new("billing").replicas(2).lease_seconds(15))?;
        let leader = workload.leading()?;
        let look = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]});
        let rules = [
            look("coordination.k8s.io", &["leases"]),
            look("apps", &["deployments", "statefulsets", "daemonsets", "replicasets"]),
            look("batch", &["jobs", "cronjobs"]),
            look("", &["pods", "events"]),
            look("events.k8s.io", &["events"]),
        ];
        let rbac = "rbac.authorization.k8s.io";
        let role =
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": VIEWER}, "rules": rules});
        let binding = json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": VIEWER},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": VIEWER},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": VIEWER}],
        });
        stage.namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]}).to_string())?;

        let ui = Ui::start(stage, &["--as", VIEWER])?;
        let browser = Browser::open(stage.namespace.cluster(), &ui.address, WINDOW)?;
        led_by(&browser, &leader.writer.pod)?;
        press(&browser, CARD, "Step down")?;
        browser.shows(&format!("{CARD} .said.bad"), &["forbidden"])?;
        ensure!(workload.leading()?.writer == leader.writer, "leadership moved");

        let other = Ui::start(stage, &["--as", "nobody-at-all"])?;
        browser.go_to(&other.address)?;
        browser.shows("#banner", &["forbidden"])?;
        workload.never_two(1)
    })
}
