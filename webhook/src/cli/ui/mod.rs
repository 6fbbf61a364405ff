//! `kubectl leader ui`: a page on this machine alone, with who leads what, who led when, and the buttons to change it.
//!
//! [`door`] says who is answered, [`routes`] answers, [`desk`] remembers, and [`cluster`] reads and acts as the other commands do, with the
//! rights of the person's kubeconfig and no others.

mod cluster;
mod desk;
mod door;
mod line;
mod page;
mod routes;
mod view;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
};

use axum::Router;
use clap::Args;
use rustls::crypto::GetRandomFailed;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use self::{cluster::Cluster, desk::Desk, door::Token};
use super::{
    Error,
    connection::{Connected, Connection},
    session::{self, Voice},
};

/// What to show, and where.
#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Show the elections of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The port on this machine; 0 takes any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The port cannot be had.
    #[error("{address} cannot be listened on: {source}. Another --port, or none, takes another one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no random numbers, and a token that can be guessed is none.
    #[error("no token can be made: the system gives no random numbers")]
    Token,
    /// The system does not play along.
    #[error("serving the page: {0}")]
    Serve(#[from] io::Error),
}

/// Prints the address of the page, and serves it until Ctrl-C.
pub(super) fn run(options: &Options, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<(), Error> {
    session::run(stdout, stderr, async |voice| {
        // Before the address is printed: who has read it may want an end at once.
        let stop = stop()?;
        let connected = options.connection.connect().await?;
        let (listener, router, address) = open(options, connected).await?;
        voice.out(format!("{address}\n"))?;
        warn(&voice)?;
        // Nothing is waited for at the end: what somebody wished for is written by then, or never.
        tokio::select! {
            served = axum::serve(listener, router).into_future() => Ok(served.map_err(UiError::Serve)?),
            () = stop => Ok(()),
        }
    })
}

fn warn(voice: &Voice) -> Result<(), Error> {
    voice.aside(
        "Whoever opens this address acts with your rights in the cluster: do not hand it on. Ctrl-C ends the page.",
    )
}

/// Ctrl-C, or the word of whatever started this.
fn stop() -> Result<impl Future<Output = ()>, UiError> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// What is served, and the page's address.
async fn open(options: &Options, connected: Connected) -> Result<(TcpListener, Router, String), UiError> {
    let namespace = (!options.all_namespaces).then_some(connected.namespace);
    let token = Token::new().map_err(|GetRandomFailed| UiError::Token)?;
    let router = routes::router(Desk::new(Cluster { client: connected.client, namespace }), token.clone());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let listener = TcpListener::bind(address).await.map_err(|source| UiError::Listen { address, source })?;
    // Behind a `#`, so that it is neither sent nor written into logs.
    let page = format!("http://{}/#{}", listener.local_addr()?, token.as_str());
    Ok((listener, router, page))
}
