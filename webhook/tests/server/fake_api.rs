//! An API server in memory, as far as the webhook uses one: objects by path, uid and resourceVersion, conflicts, lists, and watches
//! that stay silent. It knows no rights and no schemas; those are tried on a real one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::stream;
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
    silent: bool,
    unknown_roles: u32,
    forbidden_roles: bool,
    forbidden: Vec<String>,
}

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

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if self.state.lock().unwrap().silent {
            std::future::pending::<()>().await;
        }
        if query.contains("watch=true") {
            let silence = stream::pending::<Result<Vec<u8>, std::io::Error>>();
            return Body::from_stream(silence).into_response();
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = self.state.lock().unwrap().answer(&parts.method, parts.uri.path(), &query, body);
        match answer {
            Ok(object) => Json(object).into_response(),
            Err((code, reason)) => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": format!("{} {}: {reason}", parts.method, parts.uri.path()), "reason": reason, "code": code.as_u16() });
                (code, Json(status)).into_response()
            }
        }
    }
}

impl State {
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
            ("GET", Some(object)) => return Ok(object),
            ("GET", None) if self.forbidden.iter().any(|forbidden| forbidden == path) => {
                return Err((StatusCode::FORBIDDEN, "Forbidden"));
            }
            ("GET", None) if is_collection(path) => {
                self.lists.push(path.to_owned());
                let name = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
                let label = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
                let label = label.map(|label| label.replace("%2F", "/").replace("%3D", "="));
                let labelled = |object: &Value| {
                    label
                        .as_ref()
                        .and_then(|label| label.split_once('='))
                        .is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
                };
                let prefix = format!("{path}/");
                let items: Vec<&Value> = self
                    .objects
                    .iter()
                    .filter_map(|(path, object)| path.strip_prefix(&prefix).map(|rest| (rest, object)))
                    .filter(|(rest, _)| name.is_none_or(|name| name == *rest))
                    .map(|(_, object)| object)
                    .filter(|object| labelled(object))
                    .collect();
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
                if body["metadata"]["resourceVersion"] != existing["metadata"]["resourceVersion"] {
                    return Err(conflict);
                }
                for patch in body["webhooks"].as_array().unwrap() {
                    let webhooks = existing["webhooks"].as_array_mut().unwrap();
                    let webhook = webhooks.iter_mut().find(|webhook| webhook["name"] == patch["name"]).unwrap();
                    webhook["clientConfig"]["caBundle"] = patch["clientConfig"]["caBundle"].clone();
                }
                self.store(path, existing)
            }
            ("DELETE", Some(existing)) => {
                self.objects.remove(path);
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
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// By the number of parts: `/api/v1/namespaces/NS/KIND`, `/apis/GROUP/v1/namespaces/NS/KIND`, `/apis/GROUP/v1/KIND`.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    match rest {
        ["namespaces", _, rest @ ..] | rest => rest.len() == 1,
    }
}
