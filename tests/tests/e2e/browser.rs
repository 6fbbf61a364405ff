//! A real browser without a screen, in the cluster's network: Debian's Chromium, steered by the `DevTools` protocol over a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>, `--remote-debugging-pipe`: descriptor 3 is read, 4 is written, messages end with a
//! zero byte).

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use leader_tests::{Cluster, machine};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::until;

/// Root may not use the browser's sandbox, and the machines of tests often have a small /dev/shm.
const ARGUMENTS: &str = "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu --no-first-run --hide-scrollbars \
                         --disable-background-networking --disable-component-update --disable-features=HttpsUpgrades --remote-debugging-pipe";
/// A site whose name leads to this machine, as somebody's name server may say of any. Without a dot, because browsers try such a name
/// without TLS.
pub(crate) const FOREIGN_SITE: &str = "foreign-site";

/// A browser with one page open; ended when this is dropped.
pub(crate) struct Browser {
    child: Child,
    commands: RefCell<ChildStdin>,
    answers: RefCell<BufReader<ChildStdout>>,
    last: Cell<u64>,
    session: String,
    /// What the page complained about on its console, and errors of its script.
    complaints: RefCell<Vec<String>>,
    _profile: TempDir,
}

impl Browser {
    /// Opens an address in a window of this size.
    pub(crate) fn open(cluster: &Cluster, address: &str, size: (u32, u32)) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let (width, height) = size;
        let script = format!(
            "exec {} {ARGUMENTS} '--host-resolver-rules=MAP {FOREIGN_SITE} 127.0.0.1' --window-size={width},{height} --user-data-dir=\"$1\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            machine::browser()?
        );
        let tool = cluster.tool("bash").args(["-c", &script, "bash"]).arg(profile.path()).env("HOME", profile.path());
        let mut command = tool.into_command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the browser")?;
        let commands = child.stdin.take().context("no pipe to the browser")?;
        let answers = child.stdout.take().context("no pipe from the browser")?;
        let mut browser = Self {
            child,
            commands: RefCell::new(commands),
            answers: RefCell::new(BufReader::new(answers)),
            last: Cell::new(0),
            session: String::new(),
            complaints: RefCell::default(),
            _profile: profile,
        };
        let made = browser.send("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attached =
            browser.send("Target.attachToTarget", &json!({"targetId": made["targetId"], "flatten": true}))?;
        attached["sessionId"].as_str().context("no session")?.clone_into(&mut browser.session);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.send(domain, &json!({}))?;
        }
        browser.go_to(address)?;
        Ok(browser)
    }

    /// Opens another address.
    pub(crate) fn go_to(&self, address: &str) -> Result<()> {
        let gone = self.send("Page.navigate", &json!({"url": address}))?;
        ensure!(gone["errorText"].is_null(), "{address}: {gone}");
        Ok(())
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.send("Runtime.evaluate", &parameters)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until the page's text has all of this.
    pub(crate) fn shows(&self, selector: &str, parts: &[&str]) -> Result<String> {
        let expression = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        until(&format!("{selector} to show {parts:?}"), || {
            let text = self.value(&expression)?.as_str().unwrap_or_default().to_owned();
            ensure!(parts.iter().all(|part| text.contains(part)), "it shows {text:?}; {:?}", self.complaints.borrow());
            Ok(text)
        })
    }

    /// Presses the button with this text in what the selector finds, with the mouse, as a person does.
    pub(crate) fn press(&self, selector: &str, text: &str) -> Result<()> {
        let expression = format!(
            "(() => {{ const button = [...document.querySelectorAll({})].find(found => found.innerText === {} && !found.disabled); \
             if (!button) return null; button.scrollIntoView({{block: 'center'}}); const place = button.getBoundingClientRect(); \
             return [place.x + place.width / 2, place.y + place.height / 2]; }})()",
            json!(format!("{selector} button")),
            json!(text)
        );
        let place = until(&format!("a button {text} in {selector}"), || {
            let place = self.value(&expression)?;
            ensure!(place.is_array(), "there is none");
            Ok(place)
        })?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.send("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Types into what has the focus after a click on it.
    pub(crate) fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        self.value(&format!("document.querySelector({}).focus()", json!(selector)))?;
        self.send("Input.insertText", &json!({"text": text})).map(drop)
    }

    /// Saves what is seen, as PNG.
    pub(crate) fn picture(&self, file: &Path) -> Result<()> {
        let shot = self.send("Page.captureScreenshot", &json!({"format": "png"}))?;
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().context("no picture")?)?;
        Ok(std::fs::write(file, bytes)?)
    }

    /// What the page complained about so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.borrow().clone()
    }

    fn send(&self, method: &str, parameters: &Value) -> Result<Value> {
        let id = self.last.get() + 1;
        self.last.set(id);
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut commands = self.commands.borrow_mut();
        commands
            .write_all(format!("{command}\0").as_bytes())
            .and_then(|()| commands.flush())
            .context("the browser ended")?;
        loop {
            let message = self.next()?;
            if message["id"] != id {
                self.note(&message);
            } else if message["error"].is_null() {
                return Ok(message["result"].clone());
            } else {
                bail!("{method}: {}", message["error"]);
            }
        }
    }

    fn next(&self) -> Result<Value> {
        let mut message = Vec::new();
        self.answers.borrow_mut().read_until(0, &mut message)?;
        ensure!(message.pop() == Some(0), "the browser ended");
        Ok(serde_json::from_slice(&message)?)
    }

    fn note(&self, message: &Value) {
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => &message["params"]["exceptionDetails"],
            Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => &message["params"]["entry"],
            _ => return,
        };
        self.complaints.borrow_mut().push(complaint.to_string());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its own processes, which a kill would leave behind.
        let asked = self.send("Browser.close", &json!({})).is_ok();
        if !asked {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
