//! An HTTP server that says what it is told to say, byte for byte, and keeps what it was asked.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers the head of each request with what `answer` makes of it.
    pub(crate) async fn start(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let server = Self { port: listener.local_addr().expect("an address").port(), requests: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve::<TcpStream>(stream, answer.clone()));
            }
        });
        server
    }

    /// Answers one request on `stream`.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S, answer: impl Fn(&str) -> String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).expect("text");
        let answer = answer(&head);
        self.requests.lock().expect("a lock").push(head);
        let _ = stream.write_all(answer.as_bytes()).await;
        // What cannot be read to its end is told from what is over.
        if answer.ends_with("...") {
            std::future::pending::<()>().await;
        }
        let _ = stream.shutdown().await;
    }

    /// One that keeps requests that somebody else's listener brings.
    pub(crate) fn on(port: u16) -> Self {
        Self { port, requests: Arc::default() }
    }

    /// The heads of all requests.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("a lock").clone()
    }

    /// The value of a header of the last request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let requests = self.requests();
        let lines = requests.last().expect("a request").lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.to_owned())
    }
}

/// An answer with this status, these headers (each with its line end) and this body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}
