//! The report over HTTP: `/` for people, `/report` and `/entries` as JSON.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::Serialize;

use super::Shared;
use crate::clock;

/// How long a request and its answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request, in bytes.
const LONGEST_REQUEST: u64 = 16 * 1024;

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

/// Answers one request and closes the connection.
pub(super) fn answer(mut stream: &TcpStream, ledger: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let Some(path) = read_path(&mut BufReader::new(stream.take(LONGEST_REQUEST)))? else { return Ok(()) };
    let Answer { status, content_type, body } = respond(&path, ledger, clock::boot()?)?;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// The path of a GET request, once its head has been read to the end; `None` when nothing came, or something else.
fn read_path(request: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut path = None;
    let mut line = String::new();
    request.read_line(&mut line)?;
    if let ["GET", target, _] = line.split_whitespace().collect::<Vec<_>>()[..] {
        path = Some(target.split('?').next().unwrap_or_default().to_owned());
    }
    while !line.trim().is_empty() {
        line.clear();
        request.read_line(&mut line)?;
    }
    Ok(path)
}

fn respond(path: &str, ledger: &Shared, now: u64) -> io::Result<Answer> {
    let text = |status, body| Answer { status, content_type: "text/plain; charset=utf-8", body };
    Ok(match path {
        "/" => text("200 OK", ledger.lock().report(now).to_string()),
        "/report" => json(&ledger.lock().report(now))?,
        "/entries" => json(&ledger.lock().latest().collect::<Vec<_>>())?,
        _ => text("404 Not Found", format!("nothing at {path}: there are /, /report and /entries\n")),
    })
}

fn json(value: &impl Serialize) -> io::Result<Answer> {
    let body = serde_json::to_string(value)? + "\n";
    Ok(Answer { status: "200 OK", content_type: "application/json", body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn the_path_is_read_without_its_query() {
        let mut request = "GET /report?x=1 HTTP/1.1\r\nHost: k\r\n\r\n".as_bytes();
        assert_eq!(read_path(&mut request).unwrap().as_deref(), Some("/report"));
        assert_eq!(read_path(&mut "POST / HTTP/1.1\r\n\r\n".as_bytes()).unwrap(), None);
        assert_eq!(read_path(&mut "".as_bytes()).unwrap(), None);
    }

    #[test]
    fn the_report_is_json_and_the_rest_is_found_or_not() {
        let ledger = Shared::default();
        let report = respond("/report", &ledger, 5).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&report.body).unwrap().now, 5);
        assert!(respond("/", &ledger, 5).unwrap().body.starts_with("0 entries"));
        assert_eq!(respond("/entries", &ledger, 5).unwrap().body, "[]\n");
        assert_eq!(respond("/x", &ledger, 5).unwrap().status, "404 Not Found");
    }
}
