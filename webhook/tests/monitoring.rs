//! What deploy/components/monitoring asks Prometheus for is what the programs serve.

use std::{collections::BTreeSet, fs, path::Path};

use jiff::Timestamp;
use leader_webhook::metrics::Metrics;
use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn component(name: &str) -> String {
    file(&format!("deploy/components/monitoring/{name}"))
}

/// The names of samples: of a histogram there are three.
fn samples(name: &str, kind: &str) -> Vec<String> {
    match kind {
        "histogram" => ["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        _ => vec![name.to_owned()],
    }
}

/// What is served: by the webhook as it says itself, by the agents as docs/agent.md says, which its own test compares.
fn served() -> BTreeSet<String> {
    let metrics = Metrics::default();
    // What has no value yet is not served yet.
    metrics.set_expiry(Timestamp::UNIX_EPOCH);
    let text = metrics.text().unwrap();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let suffixed = families.flat_map(|(name, kind)| match kind {
        "counter" => vec![format!("{name}_total")],
        "info" => vec![format!("{name}_info")],
        _ => samples(name, kind),
    });
    let page = file("docs/agent.md");
    let rows = page.lines().filter(|line| line.starts_with("| `leader_agent_"));
    let of_agents = rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        samples(cells[1].trim_matches('`'), cells[2])
    });
    suffixed.chain(of_agents).collect()
}

/// The names of ours in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expression.split(|letter| !is_part(letter));
    words.filter(|word| word.starts_with("leader_")).map(str::to_owned).collect()
}

/// Every text under `key`, however deep.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if let (true, Some(text)) = (name == key, field.as_str()) {
                    found.push(text);
                }
                texts(field, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        _ => (),
    }
}

fn rules() -> Value {
    serde_saphyr::from_str(&component("rules.yaml")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&component("leader.json")).unwrap()
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_served() {
    let (rules, dashboard, served) = (rules(), dashboard(), served());
    let mut expressions = Vec::new();
    texts(&rules, "expr", &mut expressions);
    let alerts = expressions.len();
    texts(&dashboard, "expr", &mut expressions);
    texts(&dashboard, "query", &mut expressions);
    assert!(alerts > 5 && expressions.len() > alerts + 10, "{expressions:#?}");
    for expression in expressions {
        for name in names(expression) {
            assert!(served.contains(&name), "`{name}` of `{expression}` is not among {served:#?}");
        }
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_played_through() {
    let rules = rules();
    let (tests, page) = (file("tests/monitoring/alerts.yaml"), file("docs/observability.md"));
    let groups = rules["spec"]["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        for field in ["/labels/severity", "/annotations/summary", "/annotations/description", "/for"] {
            assert!(rule.pointer(field).is_some_and(Value::is_string), "{name} has no {field}");
        }
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "tests/monitoring/alerts.yaml does not play {name}");
        assert!(page.contains(&format!("| `{name}` |")), "docs/observability.md does not list {name}");
    }
}

#[test]
fn panels_have_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let place = |panel: &Value| ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
    for (number, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = place(panel);
        assert!(x + w <= 24, "{}", panel["title"]);
        for other in &panels[number + 1..] {
            let [other_x, other_y, other_w, other_h] = place(other);
            let apart = x + w <= other_x || other_x + other_w <= x || y + h <= other_y || other_y + other_h <= y;
            assert!(apart, "{} covers {}", panel["title"], other["title"]);
        }
    }
}

/// The port is read from the record by a regular expression, which depends on the order of the record's fields.
#[test]
fn the_record_has_its_port_where_the_monitor_looks_for_it() {
    let monitors = component("pod-monitors.yaml");
    let source = file("webhook/src/inject/record.rs");
    let structure = source.split("pub(super) struct Record {").nth(1).unwrap();
    let fields: Vec<&str> = structure
        .lines()
        .take_while(|line| *line != "}")
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    let at = |wanted: &str| fields.iter().position(|name| *name == wanted).unwrap();
    assert_eq!((at("stop_signal"), at("port")), (at("agent_image") + 1, at("agent_image") + 2), "{fields:?}");
    assert!(monitors.contains(r#""agentImage":"[^"]*"(?:,"stopSignal":"[^"]*")?,"port":([0-9]+)"#));
    assert!(at("container") < at("command"), "the first \"container\": of the record is not the container's name");
}
