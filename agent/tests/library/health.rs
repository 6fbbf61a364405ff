//! The health port.

use std::{
    future,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use leader_agent::election::{ElectionError, Outcome};
use libtest_mimic::Trial;

use crate::{
    api::Api,
    stage::{LIMIT, address, candidate, trial, until},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_candidate_is_live_at_once_and_ready_when_it_has_seen_its_lease", live_and_ready),
        trial("the_programs_own_check_decides_and_may_hang", own_check),
        trial("a_health_port_in_use_is_an_error_with_its_number", port_in_use),
    ]
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Asks as the kubelet does; `None` when nobody listens yet.
async fn ask(port: u16, path: &'static str) -> Option<(u16, String)> {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.trim().to_owned()))
    });
    asked.await.expect("no panic")
}

/// Asks until this is the answer.
async fn answers(port: u16, path: &'static str, status: u16, words: &str) {
    loop {
        match ask(port, path).await {
            Some((found, text)) if found == status && text.contains(words) => return,
            // Not there yet, or not in this state yet.
            _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

async fn live_and_ready() {
    let (api, port) = (Api::held(), free_port());
    api.be_silent(true);
    let election = candidate("one", &address(&api)).health_port(port);
    let stop = election.stop_handle();
    let kubelet = async {
        answers(port, "/livez", 200, "ok").await;
        answers(port, "/readyz", 503, "not seen").await;
        answers(port, "/other", 404, "/readyz").await;
        api.be_silent(false);
        answers(port, "/readyz", 200, "ok").await;
        stop.stop();
    };
    let (outcome, ()) = tokio::join!(election.run(|_| future::pending::<()>()), kubelet);
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    until("the port is closed", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()).await;
}

async fn own_check() {
    let (api, port, healthy) = (Api::held(), free_port(), Arc::new(AtomicBool::new(true)));
    let (hanging, asked) = (Arc::new(Mutex::new(())), Arc::clone(&healthy));
    let lock = Arc::clone(&hanging);
    let election = candidate("one", &address(&api)).health_port(port).health_check(move || {
        drop(lock.lock());
        if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("the queue is full".to_owned()) }
    });
    let stop = election.stop_handle();
    let kubelet = async {
        answers(port, "/readyz", 200, "ok").await;
        healthy.store(false, Ordering::Relaxed);
        answers(port, "/livez", 503, "the queue is full").await;
        answers(port, "/readyz", 503, "the queue is full").await;
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let held = Arc::clone(&hanging);
        let (holds, held_now) = tokio::sync::oneshot::channel();
        let holder = std::thread::spawn(move || {
            let _held = held.lock();
            let _ = holds.send(());
            let _ = receiver.recv();
        });
        held_now.await.expect("held");
        answers(port, "/livez", 503, "takes longer").await;
        drop(sender);
        holder.join().expect("no panic");
        healthy.store(true, Ordering::Relaxed);
        answers(port, "/livez", 200, "ok").await;
        stop.stop();
    };
    let (outcome, ()) = tokio::join!(election.run(|_| future::pending::<()>()), kubelet);
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
}

async fn port_in_use() {
    let api = Api::held();
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let outcome = candidate("one", &address(&api)).health_port(port).run(|_| future::pending::<()>()).await;
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ElectionError::HealthPort { port: found, .. } if *found == port), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
