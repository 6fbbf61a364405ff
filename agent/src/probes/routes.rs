//! From a path of the agent's server to a question for the [`super::prober`], and from its answer to an HTTP response.

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Kind,
    interface::{Answer, Ask, Question},
    server::Origin,
};
use crate::clock;

/// Questions that wait for the run loop; more are refused.
pub const QUESTIONS: usize = 64;

/// Answers one request. Hooks are for the Unix socket alone: nobody else shall have the app's hooks run.
pub async fn respond(asks: mpsc::Sender<Ask>, origin: Origin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let question = match (question(request.uri().path()), request.method()) {
        (Some(Question::PreStop), _) if origin != Origin::Socket => None,
        (Some(Question::PreStop), method) if method != Method::POST => {
            return text(StatusCode::METHOD_NOT_ALLOWED, "a hook is asked for by POST");
        }
        (question, _) => question,
    };
    let Some(question) = question else { return text(StatusCode::NOT_FOUND, "there is nothing here") };
    let (reply, answer) = oneshot::channel();
    if asks.try_send(Ask { question, asked: clock::boot(), reply }).is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many questions at once");
    }
    match answer.await {
        Ok(Answer { passed: true, reason }) => text(StatusCode::OK, &reason),
        Ok(Answer { passed: false, reason }) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"),
    }
}

/// The question that a path asks.
fn question(path: &str) -> Option<Question> {
    let kinds = Kind::ALL.map(Question::Probe);
    kinds.into_iter().chain([Question::PreStop]).find(|question| self::path(*question).1 == path)
}

/// How a question is asked.
pub fn path(question: Question) -> (Method, &'static str) {
    match question {
        Question::Probe(Kind::Liveness) => (Method::GET, "/leader.io/probe/liveness"),
        Question::Probe(Kind::Readiness) => (Method::GET, "/leader.io/probe/readiness"),
        Question::Probe(Kind::Startup) => (Method::GET, "/leader.io/probe/startup"),
        Question::PreStop => (Method::POST, "/leader.io/hook/pre-stop"),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn paths_are_made_of_the_names_that_injection_uses() {
        for kind in Kind::ALL {
            let path = format!("{}{}", names::PROBE_PATH, kind.name());
            assert_eq!(question(&path), Some(Question::Probe(kind)));
        }
        let path = format!("{}{}", names::HOOK_PATH, names::hook::PRE_STOP);
        assert_eq!(question(&path), Some(Question::PreStop));
        for path in ["/", "/leader.io/probe/", "/leader.io/probe/liveness/", "/leader.io/hook/post-start", "/livez"] {
            assert_eq!(question(path), None, "{path}");
        }
    }
}
