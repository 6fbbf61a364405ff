//! The network between one candidate and the API server: it can be cut, with the connections left open.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// A way to the API server.
pub(crate) struct Link {
    /// Where the candidate connects to.
    pub(crate) address: String,
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Link {
    /// A way to `address`, `http://host:port`.
    pub(crate) fn to(address: &str) -> Self {
        let server = address.strip_prefix("http://").expect("plain HTTP").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(&server) else { continue };
                let ways = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for (from, to) in ways {
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let state = Arc::clone(&shared);
                    thread::spawn(move || copy(from, to, &state));
                }
            }
        });
        Self { address, state }
    }

    /// Nothing passes any more, or all that has waited.
    pub(crate) fn cut(&self, cut: bool) {
        *self.state.0.lock().expect("no test panics with it") = cut;
        self.state.1.notify_all();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, (cut, change): &(Mutex<bool>, Condvar)) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        drop(change.wait_while(cut.lock().expect("no test panics with it"), |cut| *cut));
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
