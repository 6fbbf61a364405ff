//! The agent's port: in use, and flooded.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{api::Api, pod::Pod};

#[test]
fn a_port_in_use_is_a_start_error_before_anything_is_asked_of_the_lease() {
    let api = Api::released();
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mut pod = Pod::start(&api, "ann", &json!({ "port": port }), "echo up");
    assert_eq!(pod.code(), 2);
    pod.says("leader.io/port");
    assert_eq!((api.writes(), pod.text().contains("standing by")), (0, false), "{}", pod.text());
}

#[test]
fn a_wrong_record_is_a_start_error_that_names_the_field() {
    let api = Api::released();
    let fields = json!({ "probes": { "liveness": { "httpGet": { "port": "web" } } } });
    let mut pod = Pod::start(&api, "ann", &fields, "echo up");
    assert_eq!(pod.code(), 2);
    pod.says("probes.liveness.httpGet.port");
}

/// Strangers connect as fast as they can, some with requests, some without a word.
#[test]
fn a_flood_of_connections_does_not_hold_up_renewals_or_the_socket() {
    const LASTS: Duration = Duration::from_secs(8);
    /// A renewal follows the one before after 2 s; what comes on top is the machine's. One that was held up misses its time by far more.
    const LONGEST_GAP: Duration = Duration::from_secs(5);
    let api = Api::released();
    let fields = json!({ "probes": { "readiness": { "exec": { "command": ["sh", "-c", "echo >> runs"] } } } });
    let pod = Pod::start(&api, "ann", &fields, "echo up; exec sleep 600");
    pod.says("up");
    let before = api.writes() - 1;
    let (over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for asks in [true, true, false, false] {
            let (over, connections, port) = (&over, &connections, pod.port);
            scope.spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                    connections.fetch_add(1, Ordering::Relaxed);
                    if asks {
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                        let _ = stream.write_all(b"GET /leader.io/probe/readiness HTTP/1.1\r\nHost: me\r\n\r\n");
                        let _ = stream.read(&mut [0; 512]);
                    } else {
                        kept.push_back(stream);
                        kept.truncate(500);
                    }
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < LASTS {
            let asked = Instant::now();
            let output = pod.run(&["probe", "readiness"]);
            assert!(output.status.success(), "{output:?}");
            assert!(asked.elapsed() < LONGEST_GAP, "the socket took {:?}", asked.elapsed());
        }
        over.store(true, Ordering::Relaxed);
    });
    let (gap, connections) = (api.longest_gap(before), connections.into_inner());
    eprintln!("{connections} connections in {LASTS:?}; the longest time between two renewals was {gap:?}");
    assert!(connections > 1000, "that was no flood: {connections} connections");
    assert!(gap < LONGEST_GAP, "{gap:?} between two renewals");
    assert_eq!(pod.text().matches("leading").count(), 1, "{}", pod.text());
    // Nor does each stranger start a program: two a second are enough.
    let runs = std::fs::read_to_string(pod.file("runs")).expect("the runs").lines().count();
    assert!((2..=20).contains(&runs), "{runs} runs of the probe in {LASTS:?}");
}
