//! An API server in memory, as far as the webhook uses one: objects by path, uid and resourceVersion, conflicts, lists, and watches,
//! which stay silent unless they are asked for. It knows no rights and no schemas; those are tried on a real one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use kube::Client;
use serde_json::{Value, json};

/// The server; a clone is the same one.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<String>,
    lists: Vec<String>,
    /// How often each path was read, listed or watched.
    asked: BTreeMap<String, usize>,
    silent: bool,
    /// Of these collections watches end as soon as they have begun.
    short_watches: Vec<String>,
    unknown_roles: u32,
    forbidden_roles: bool,
    forbidden: Vec<String>,
    ahead: Duration,
    /// What somebody else writes right after a path was read.
    meanwhile: Vec<(String, String, Value)>,
    /// What watches tell; `None` keeps them silent.
    changes: Option<Vec<Change>>,
}

/// Something that a watch tells.
struct Change {
    version: u64,
    path: String,
    event: Value,
}

/// How often a watch looks whether there is something to tell.
const TICK: Duration = Duration::from_millis(5);

impl FakeApi {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let this = self.clone();
        let router = Router::new().fallback(move |request: Request| {
            let this = this.clone();
            async move { this.answer(request).await }
        });
        Client::new(router, "default")
    }

    /// Puts an object there, as somebody else would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state.lock().unwrap().store(path, object);
    }

    /// Takes an object away, as somebody else would.
    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().take_away(path);
    }

    /// From now on watches tell what changes.
    pub(crate) fn tell_changes(&self) {
        self.state.lock().unwrap().changes = Some(Vec::new());
    }

    /// Once `read` has been read for the next time, somebody else writes `object` at `path`.
    pub(crate) fn put_after_read(&self, read: &str, path: &str, object: Value) {
        self.state.lock().unwrap().meanwhile.push((read.to_owned(), path.to_owned(), object));
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// The writes that succeeded, as `METHOD path`.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.state.lock().unwrap().writes.clone()
    }

    /// The collections that were listed, in order.
    pub(crate) fn lists(&self) -> Vec<String> {
        self.state.lock().unwrap().lists.clone()
    }

    /// How often this path was read, listed or watched.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.get(path).copied().unwrap_or_default()
    }

    /// From now on watches of this collection end as soon as they have begun.
    pub(crate) fn end_watches(&self, path: &str) {
        self.state.lock().unwrap().short_watches.push(path.to_owned());
    }

    /// From now on requests are taken and never answered.
    pub(crate) fn fall_silent(&self) {
        self.state.lock().unwrap().silent = true;
    }

    /// The next so many RoleBindings are refused because their Role is not known yet, as the API server's cache does.
    pub(crate) fn forget_roles(&self, times: u32) {
        self.state.lock().unwrap().unknown_roles = times;
    }

    /// From now on nobody may make a RoleBinding.
    pub(crate) fn forbid_roles(&self) {
        self.state.lock().unwrap().forbidden_roles = true;
    }

    /// From now on nobody may list this collection.
    pub(crate) fn forbid(&self, path: &str) {
        self.state.lock().unwrap().forbidden.push(path.to_owned());
    }

    /// From now on its clock is so far ahead of this machine's.
    pub(crate) fn set_ahead(&self, ahead: Duration) {
        self.state.lock().unwrap().ahead = ahead;
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now() + self.state.lock().unwrap().ahead
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if self.state.lock().unwrap().silent {
            std::future::pending::<()>().await;
        }
        if parts.method == Method::GET {
            *self.state.lock().unwrap().asked.entry(parts.uri.path().to_owned()).or_default() += 1;
        }
        if query.contains("watch=true") {
            if self.state.lock().unwrap().short_watches.iter().any(|short| short == parts.uri.path()) {
                return Body::empty().into_response();
            }
            if self.state.lock().unwrap().changes.is_some() {
                return Body::from_stream(self.watch(parts.uri.path().to_owned(), query)).into_response();
            }
            let silence = stream::pending::<Result<Vec<u8>, std::io::Error>>();
            return Body::from_stream(silence).into_response();
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = self.state.lock().unwrap().answer(&parts.method, parts.uri.path(), &query, body);
        let date = [(header::DATE, DateTimePrinter::new().timestamp_to_rfc9110_string(&self.now()).unwrap())];
        match answer {
            Ok(object) => (date, Json(object)).into_response(),
            Err((code, reason)) => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": format!("{} {}: {reason}", parts.method, parts.uri.path()), "reason": reason, "code": code.as_u16() });
                (code, date, Json(status)).into_response()
            }
        }
    }
}

impl FakeApi {
    /// What changes in a collection from the version on that is asked for.
    fn watch(&self, collection: String, query: String) -> impl Stream<Item = Result<Vec<u8>, std::io::Error>> + use<> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let from: u64 = from.and_then(|version| version.parse().ok()).unwrap_or_default();
        let this = self.clone();
        stream::unfold(from, move |from| {
            let (this, collection, query) = (this.clone(), collection.clone(), query.clone());
            async move {
                loop {
                    let told = this.state.lock().unwrap().changes_since(from, &collection, &query);
                    if let Some((version, lines)) = told {
                        return Some((Ok(lines), version));
                    }
                    tokio::time::sleep(TICK).await;
                }
            }
        })
    }
}

impl State {
    /// The lines that tell of later changes than `from`, and the last one's version.
    fn changes_since(&self, from: u64, collection: &str, query: &str) -> Option<(u64, Vec<u8>)> {
        let later = self.changes.iter().flatten().filter(|change| change.version > from);
        let ours = later.filter(|change| is_selected(collection, query, &change.path, &change.event["object"]));
        let mut told = None;
        for change in ours {
            let (version, lines): &mut (u64, Vec<u8>) = told.get_or_insert_default();
            *version = change.version;
            lines.extend(format!("{}\n", change.event).into_bytes());
        }
        told
    }

    fn take_away(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell("DELETED", path, &object);
        }
    }

    fn tell(&mut self, what: &str, path: &str, object: &Value) {
        let version = self.version;
        if let Some(changes) = &mut self.changes {
            let event = json!({ "type": what, "object": object });
            changes.push(Change { version, path: path.to_owned(), event });
        }
    }

    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: Value,
    ) -> Result<Value, (StatusCode, &'static str)> {
        let not_found = (StatusCode::NOT_FOUND, "NotFound");
        let conflict = (StatusCode::CONFLICT, "Conflict");
        let existing = self.objects.get(path).cloned();
        let written = match (method.as_str(), existing) {
            ("GET", Some(object)) => {
                if let Some(at) = self.meanwhile.iter().position(|(read, ..)| read == path) {
                    let (_, path, object) = self.meanwhile.remove(at);
                    self.store(&path, object);
                }
                return Ok(object);
            }
            ("GET", None) if self.forbidden.iter().any(|forbidden| forbidden == path) => {
                return Err((StatusCode::FORBIDDEN, "Forbidden"));
            }
            ("GET", None) if is_collection(path) => {
                self.lists.push(path.to_owned());
                let all = self.objects.iter();
                let items: Vec<&Value> =
                    all.filter(|(at, object)| is_selected(path, query, at, object)).map(|(_, object)| object).collect();
                return Ok(json!({ "kind": "List", "apiVersion": "v1", "items": items,
                    "metadata": { "resourceVersion": self.version.to_string() } }));
            }
            ("POST", _) if path.ends_with("/rolebindings") && self.forbidden_roles => {
                return Err((StatusCode::FORBIDDEN, "Forbidden"));
            }
            ("POST", _) if path.ends_with("/rolebindings") && self.unknown_roles > 0 => {
                self.unknown_roles -= 1;
                return Err(not_found);
            }
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return Err((StatusCode::CONFLICT, "AlreadyExists"));
                }
                self.store(&path, body)
            }
            ("PUT" | "PATCH" | "DELETE" | "GET", None) => return Err(not_found),
            ("PUT", Some(existing)) => {
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != existing["metadata"]["resourceVersion"] {
                    return Err(conflict);
                }
                self.store(path, body)
            }
            ("PATCH", Some(mut existing)) => {
                let uid = &body["metadata"]["uid"];
                if body["metadata"]["resourceVersion"] != existing["metadata"]["resourceVersion"]
                    || !(uid.is_null() || *uid == existing["metadata"]["uid"])
                {
                    return Err(conflict);
                }
                if body["webhooks"].is_null() {
                    json_patch::merge(&mut existing, &body);
                    let written = self.store(path, existing);
                    self.writes.push(format!("{method} {path}"));
                    return Ok(written);
                }
                for patch in body["webhooks"].as_array().unwrap() {
                    let webhooks = existing["webhooks"].as_array_mut().unwrap();
                    let webhook = webhooks.iter_mut().find(|webhook| webhook["name"] == patch["name"]).unwrap();
                    webhook["clientConfig"]["caBundle"] = patch["clientConfig"]["caBundle"].clone();
                }
                self.store(path, existing)
            }
            ("DELETE", Some(existing)) => {
                let wanted = &body["preconditions"];
                for field in ["uid", "resourceVersion"] {
                    if !wanted[field].is_null() && wanted[field] != existing["metadata"][field] {
                        return Err(conflict);
                    }
                }
                self.take_away(path);
                existing
            }
            _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")),
        };
        self.writes.push(format!("{method} {path}"));
        Ok(written)
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let replaced = self.objects.insert(path.to_owned(), object.clone());
        self.tell(if replaced.is_some() { "MODIFIED" } else { "ADDED" }, path, &object);
        object
    }
}

/// Whether the object at `path` is what a list or watch of `collection` asks for: of one namespace or of all.
fn is_selected(collection: &str, query: &str, path: &str, object: &Value) -> bool {
    let Some((parent, name)) = path.rsplit_once('/') else { return false };
    let everywhere = parent.split_once("/namespaces/").and_then(|(group, rest)| {
        let (_, kind) = rest.split_once('/')?;
        Some(format!("{group}/{kind}"))
    });
    let named = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
    let account = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=spec.serviceAccountName%3D"));
    let label = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
    let label = label.map(|label| label.replace("%2F", "/").replace("%3D", "="));
    let labelled = label.is_none_or(|label| match label.split_once('=') {
        Some((key, value)) => object["metadata"]["labels"][key] == value,
        None => label.is_empty() || !object["metadata"]["labels"][&label].is_null(),
    });
    (parent == collection || everywhere.as_deref() == Some(collection))
        && named.is_none_or(|wanted| wanted == name)
        && account.is_none_or(|wanted| object["spec"]["serviceAccountName"] == wanted)
        && labelled
}

/// By the number of parts: `/api/v1/namespaces/NS/KIND`, `/apis/GROUP/v1/namespaces/NS/KIND`, `/apis/GROUP/v1/KIND`.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    match rest {
        ["namespaces", _, rest @ ..] | rest => rest.len() == 1,
    }
}
