//! The program's life: started, listening, told to stop, ended.

use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use crate::event::{Process, What, tell};
use crate::options::{Options, SIGNALS};
use crate::{grpc, http};

/// Does what the arguments say: `check` answers an exec probe, `note TEXT` writes a text down, all else is the program.
///
/// # Errors
/// When something cannot be written, or a port cannot be had.
pub fn run(options: Options, arguments: &[String]) -> Result<ExitCode> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => {
            tell(&options, What::Check(Process::this()?))?;
            Ok(if options.failing() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        ["note", text] => {
            tell(&options, What::Note(text.to_owned(), Process::this()?))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(LocalSet::new().run_until(live(Rc::new(options))))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn live(options: Rc<Options>) -> Result<()> {
    // Before anything is said: who reads it may send the first signal.
    let signals = SIGNALS.map(|name| Ok((name, listen_for(name)?))).into_iter().collect::<Result<Vec<_>>>()?;
    tell(&options, What::Started(Process::this()?))?;
    let serving = async {
        if options.deaf() {
            return std::future::pending().await;
        }
        tokio::time::sleep(options.listen_after).await;
        serve(&options).await
    };
    tokio::select! {
        failed = serving => return failed,
        told = told_to_stop(&options, signals) => told?,
    }
    tokio::time::sleep(options.shutdown).await;
    tell(&options, What::Ended)?;
    Ok(())
}

/// Listens on every port, and never returns but with an error.
async fn serve(options: &Rc<Options>) -> Result<()> {
    let bind = async |port: Option<u16>| match port {
        Some(port) => {
            let listener = TcpListener::bind(("0.0.0.0", port)).await;
            listener.map(Some).with_context(|| format!("cannot listen on port {port}"))
        }
        None => Ok(None),
    };
    let (http, https) = (bind(options.http).await?, bind(options.https).await?);
    let (tcp, grpc) = (bind(options.tcp).await?, bind(options.grpc).await?);
    let acceptor = acceptor()?;
    let told = Rc::clone(options);
    spawn_local(accept(http, move |stream| http::serve(stream, false, Rc::clone(&told))));
    let told = Rc::clone(options);
    spawn_local(accept(https, move |stream| {
        let (acceptor, options) = (acceptor.clone(), Rc::clone(&told));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                http::serve(stream, true, options).await;
            }
        }
    }));
    let told = Rc::clone(options);
    spawn_local(accept(tcp, move |_| {
        let options = Rc::clone(&told);
        async move {
            if let Err(error) = tell(&options, What::Connection) {
                eprintln!("specimen: {error}");
            }
        }
    }));
    let told = Rc::clone(options);
    spawn_local(accept(grpc, move |stream| grpc::serve(stream, Rc::clone(&told))));
    tell(options, What::Listening)?;
    std::future::pending().await
}

/// Serves each connection in a task of its own.
async fn accept<F: Future<Output = ()> + 'static>(listener: Option<TcpListener>, serve: impl Fn(TcpStream) -> F) {
    let Some(listener) = listener else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(serve(stream))),
            // Out of files, most likely; the next one may find some.
            Err(error) => {
                eprintln!("specimen: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A certificate of its own, that nobody vouches for: probes do not ask.
fn acceptor() -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(vec!["specimen".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key.into())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn listen_for(name: &str) -> Result<Signal> {
    let kind = match name {
        "HUP" => SignalKind::hangup(),
        "INT" => SignalKind::interrupt(),
        "QUIT" => SignalKind::quit(),
        "USR1" => SignalKind::user_defined1(),
        "USR2" => SignalKind::user_defined2(),
        "WINCH" => SignalKind::window_change(),
        _ => SignalKind::terminate(),
    };
    signal(kind).with_context(|| format!("cannot listen for SIG{name}"))
}

/// Writes every signal down; returns at one that is to end the program.
async fn told_to_stop(options: &Options, mut signals: Vec<(&'static str, Signal)>) -> Result<()> {
    loop {
        let first = std::future::poll_fn(|context| {
            for (name, signal) in &mut signals {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        });
        let name = pin!(first).await;
        tell(options, What::Signal(format!("SIG{name}")))?;
        if options.stop.iter().any(|stop| stop == name) {
            return Ok(());
        }
    }
}
